# SPDX-License-Identifier: Apache-2.0
"""Parses command lines: checks numbers and paths, and suggests what was meant."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from megatron_packing.report.visible import visible

_INT64 = range(-(2**63), 2**63)


def whole_number(text: str) -> int:
    """An integer of 64 bits."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number; give one such as 128"
        ) from error
    if number not in _INT64:
        raise argparse.ArgumentTypeError(
            f"{text} is beyond 64 bits; give a number from {_INT64[0]} to {_INT64[-1]}"
        )
    return number


def finite_number(text: str) -> float:
    """A number, neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def path(text: str) -> Path:
    """A path that is not empty, as an unset variable makes it."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is a variable unset?")
    return Path(text)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to every help text that does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS) or action.default == []:
            return action.help
        if action.help is not None and "default" in action.help:
            return action.help
        return f"{action.help or ''} (default: %(default)s)".lstrip()


class Parser(argparse.ArgumentParser):
    """An argparse parser whose arguments of type int, float and Path are checked.

    It suggests the flag or the choice that was meant.
    """

    def __init__(self, **options: Any) -> None:
        # A part of a flag in a script would mean another one once a release adds a flag.
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **options})
        self.register("type", int, whole_number)
        self.register("type", float, finite_number)
        self.register("type", Path, path)
        self._given: list[str] = []

    @property
    def flags(self) -> list[str]:
        """All that begin with a dash."""
        return list(self._option_string_actions)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, and keep the arguments for messages."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._given, namespace)

    def refuse(self, unknown: Iterable[str]) -> NoReturn:
        """End with a sentence that names arguments that are not understood."""
        super().error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestions()}")

    def error(self, message: str) -> NoReturn:
        """End with a message; of a flag that is missing, say which one may stand for it."""
        hint = self._suggestions() if "are required" in message else ""
        super().error(message + hint)

    def _suggestions(self) -> str:
        known = self.flags
        flags = [word.partition("=")[0] for word in self._given if word.startswith("--")]
        pairs = [(flag, _close_to(flag, known)) for flag in flags if flag not in known]
        meant = [f"{close[0]} in place of {flag}" for flag, close in pairs if close]
        return f"; did you mean {' and '.join(meant)}?" if meant else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = [str(choice) for choice in action.choices or ()]
            close = difflib.get_close_matches(str(value), choices, 1)
            if close:
                error.message += f"; did you mean {close[0]!r}?"
            raise

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(visible(message), file)


def _close_to(flag: str, known: Sequence[str]) -> list[str]:
    """Return the flag that begins so, or else one that is spelled alike; nothing if none is."""
    longer = [option for option in known if option.startswith(flag)]
    return longer[:1] if len(longer) == 1 else difflib.get_close_matches(flag, known, 1)
