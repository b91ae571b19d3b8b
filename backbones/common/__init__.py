"""What all tasks share: images, file names, files, batches, precision, registries, plugins."""
