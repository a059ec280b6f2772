# SPDX-License-Identifier: Apache-2.0
"""The errors that users are meant to read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """What a user gave is wrong.

    The message is one sentence that names the file, record or flag, what was found, what was
    expected and what to do. The command line prints it without a traceback.
    """


class SettingError(InputError):
    """A setting of a plan is wrong, or the documents do not fit it.

    The message names settings in braces: ``{alignment} is 5; it must be ...``. ``str`` shows the
    names of the fields of ``PlanSettings``; a command line shows its flags with :meth:`naming`.
    Other braces are doubled; see :func:`doubled_braces`.
    """

    def __str__(self) -> str:
        return self.naming(str)

    def naming(self, name_of: Callable[[str], str]) -> str:
        """The message with other names for the settings.

        Args:
            name_of: The name to show for a field of ``PlanSettings``, such as its flag.
        """
        return re.sub(
            r"\{(\w+)\}|\{\{|\}\}",
            lambda found: name_of(found[1]) if found[1] else found[0][0],
            str(self.args[0]),
        )


def doubled_braces(text: object) -> str:
    """What a user gave, such as a path, for the message of a :class:`SettingError`."""
    return str(text).replace("{", "{{").replace("}", "}}")


class FaultError(InputError):
    """What was checked is wrong.

    The command line writes the record of ``--json`` all the same.
    """

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        """Keep the record.

        Args:
            message: As of ``InputError``.
            record: What was found, for ``--json``.
        """
        super().__init__(message)
        self.record = record


class UnreadableError(InputError):
    """A file is missing, shorter than it should be, or cannot be read.

    A network file system may show what another machine has just written like this for a while.
    """


def missing(what: str, package: str, extra: str) -> InputError:
    """The error that says how to get a package of an extra.

    Args:
        what: Who needs it: "tokenizing".
        package: The package or the module that is missing.
        extra: The extra of this project that has it.
    """
    if package.partition(".")[0] == "google":  # no other package that is used has this module
        package = "protobuf"
    return InputError(
        f"{what} needs {package}, which is not installed; install it with: "
        f"pip install 'megatron-packing[{extra}]', or in NVIDIA's images with: "
        f"pip install --no-deps {package}"
    )
