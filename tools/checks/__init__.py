"""Checks of data sets, which find all problems of annotations, image files, class folders and label maps at once."""
