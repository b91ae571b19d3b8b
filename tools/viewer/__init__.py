"""A local web page for looking at trained models: uploads, answers of each task, and the page itself."""
