"""The command line of every command: options as dataclasses, positional arguments, errors in one line."""
