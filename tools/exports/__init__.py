"""Exports of trained models: files for other programs, 8-bit files, and repositories of the Hugging Face hub."""
