"""The one exception that means "the input is at fault, not the program"."""


class ReinfuseError(ValueError):
    """Bad input, told so that the user can mend it.

    The message says what was wrong, the value seen, and what to do. The command line prints it without a
    traceback and ends with exit code 2; a caller of the API may catch it as a `ValueError`.
    """
