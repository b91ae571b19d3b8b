"""Training tasks (classification, detection, segmentation). `tools.engine.task` says how to add another one."""
