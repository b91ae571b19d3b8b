"""TODO-DOC detection/data."""
