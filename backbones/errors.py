"""The one exception for mistakes that a user can mend; it imports nothing, so that every module can raise it."""


class UserError(ValueError):
    """An input, option or file is wrong: the text says what, where and the way out, in one line.

    Scripts print it without a traceback and exit with status 2.
    """
