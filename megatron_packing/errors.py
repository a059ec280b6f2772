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


def missing(what: str, package: str, extra: str) -> InputError:
    """The error that says how to get a package of an extra.

    Args:
        what: Who needs it: "tokenizing".
        package: What is missing.
        extra: The extra of this project that has it.
    """
    return InputError(
        f"{what} needs {package}, which is not installed; install it with: "
        f"pip install 'megatron-packing[{extra}]', or in NVIDIA's images with: "
        f"pip install --no-deps {package}"
    )
