"""Reads finished runs: folder, log, headline metrics and predictions; computes bootstrap intervals over images."""
