"""Prediction on images, folders and videos: inputs, results of each task, drawn pictures."""
