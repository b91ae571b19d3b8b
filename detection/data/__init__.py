"""Detection data sets: readers and writers of their layouts, and checked annotations."""
