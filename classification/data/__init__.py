"""TODO-DOC classification/data."""
