"""Generators of synthetic data sets: shapes, crops of shapes, spectrograms, and COCO results."""
