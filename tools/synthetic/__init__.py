"""TODO-DOC tools/synthetic."""
