"""The error that users are meant to read."""


class InputError(ValueError):
    """What a user gave is wrong.

    The message is one sentence that names the file, record or flag, what was found, what was
    expected and what to do. The command line prints it without a traceback.
    """
