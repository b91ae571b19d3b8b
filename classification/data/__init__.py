"""Images of a classification data set: class folders and tar shards behind one interface."""
