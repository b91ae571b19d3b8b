"""Augmentation of images with boxes and masks: steps, and lists of steps that make a preset."""
