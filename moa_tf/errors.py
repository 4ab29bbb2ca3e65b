"""The one exception that means: the caller's input is at fault, not the program."""


class InputError(Exception):
    """Bad input or a wrong call.

    The message is shown to the user as it is, on one line a fault, and the command exits with status 2.
    So it names the file, the column, the first offending rows and their count, and what was expected.
    """
