"""What all commands share: options from dataclasses, positional arguments, plugins, and errors in one line."""
