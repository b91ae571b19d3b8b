"""Benchmarks: speed, memory, scaling and network traffic of this project, compared with other libraries."""
