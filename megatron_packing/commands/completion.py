# SPDX-License-Identifier: Apache-2.0
"""Completes command lines in shells, with argcomplete (extra ``completion``)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import NoReturn


def complete(parser: ArgumentParser) -> NoReturn:
    """Tell the shell what may come next, and exit.

    The shell's function calls the command with ``_ARGCOMPLETE`` set. Without argcomplete, as where
    the function comes from another environment, nothing is completed.
    """
    try:
        import argcomplete
    except ModuleNotFoundError:
        sys.exit(1)
    argcomplete.autocomplete(parser)
    sys.exit(1)  # the shell did not set all that argcomplete needs
