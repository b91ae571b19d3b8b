"""Images and label maps of a segmentation data set: folders of label maps, or COCO's objects as label maps."""
