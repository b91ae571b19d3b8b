"""TODO-DOC tools/analysis."""
