"""Experiments: many training runs with different options, compared in tables, charts and sentences."""
