"""Checks of data sets: all problems of annotations, image files, class folders and label maps in one pass."""
