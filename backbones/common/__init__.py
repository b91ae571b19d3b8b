"""TODO-DOC backbones/common."""
