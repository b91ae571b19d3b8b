"""Experiments: matrices of training runs, trained one by one and compared in tables, charts and statements."""
