"""Trained models outside this project: files for other programs, 8-bit files, the Hugging Face hub."""
