"""TODO-DOC tools/prediction."""
