"""The commands, and the code that the three tasks share: training, measuring, comparing and exporting models."""
