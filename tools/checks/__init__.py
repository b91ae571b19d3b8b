"""TODO-DOC tools/checks."""
