"""Training runs: their sequence of steps, the training loop, checkpoints, resuming, optimizers, and the printed plan."""
