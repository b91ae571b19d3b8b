"""Prediction on files: inputs, tasks, drawn and written outputs."""
