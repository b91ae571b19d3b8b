"""TODO-DOC tools/experiments."""
