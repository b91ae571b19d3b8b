"""Prediction on images, folders and videos: reading inputs, results of each task, drawn images."""
