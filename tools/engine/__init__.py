"""TODO-DOC tools/engine."""
