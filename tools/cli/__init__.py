"""Shared parts of all commands: options from dataclasses, positional arguments, plugins, and errors in one line."""
