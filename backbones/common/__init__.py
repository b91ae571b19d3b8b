"""Code that all tasks and tools use: images, data sets, files, loaders, precision, processes, registries, plugins."""
