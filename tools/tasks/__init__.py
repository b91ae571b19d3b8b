"""Tasks that can be trained: what a run of each is made of. `tools.engine.task` says how a new one is added."""
