"""Benchmarks of the project's code beside other libraries: speed, memory, growth of costs, and traffic of processes."""
