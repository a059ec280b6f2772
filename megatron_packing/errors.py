# SPDX-License-Identifier: Apache-2.0
"""The error that users are meant to read."""


class InputError(ValueError):
    """What a user gave is wrong.

    The message is one sentence that names the file, record or flag, what was found, what was
    expected and what to do. The command line prints it without a traceback.
    """


class UnreadableError(InputError):
    """A file is missing, shorter than it should be, or cannot be read.

    A network file system may show what another machine has just written like this for a while.
    """
