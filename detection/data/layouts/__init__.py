"""Layouts of detection data sets: one file for each, and a registry of all."""
