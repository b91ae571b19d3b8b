"""TODO-DOC tools/reports."""
