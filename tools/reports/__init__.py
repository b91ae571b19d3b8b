"""The HTML report on finished runs: chapters of each task as plain data, charts, and the page."""
