"""TODO-DOC tools/runs."""
