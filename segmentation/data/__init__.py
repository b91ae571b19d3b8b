"""Segmentation data sets: images with label maps from folders, or with label maps painted from COCO's objects."""
