"""TODO-DOC tools/cli."""
