"""TODO-DOC tools/processes."""
