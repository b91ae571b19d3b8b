"""Training runs: the run sequence, the loop, checkpoints, resume, optimizers, the plan."""
