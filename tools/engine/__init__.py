"""Training runs: sequence of steps, training loop, checkpoints, resuming, optimizers, and the printed plan."""
