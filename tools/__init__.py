"""Task-blind machinery for training and measuring, and the scripts over it."""
