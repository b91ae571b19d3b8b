"""TODO-DOC segmentation/data."""
