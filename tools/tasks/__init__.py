"""TODO-DOC tools/tasks."""
