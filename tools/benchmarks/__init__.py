"""TODO-DOC tools/benchmarks."""
