"""TODO-DOC backbones/weights."""
