"""Detection data sets: readers of each layout, checked annotations, writers."""
