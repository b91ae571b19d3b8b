"""TODO-DOC tools/exports."""
