# SPDX-License-Identifier: Apache-2.0
"""Writes results as JSON to a file or to standard output."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.files.whole import write_whole
from megatron_packing.report.console import console

STANDARD_OUTPUT = Path("-")
_FIRST_KEY = re.compile(r'\{\n  "(\w+)":')
_TOLD_BY = 1000
"""The characters at the beginning of a file that tell what it holds."""


def refuse_other_content(path: Path, flag: str, is_own: Callable[[str], bool]) -> None:
    """Keep a file that a result would replace, unless it is an earlier result.

    Args:
        path: Where the result goes.
        flag: What named the path.
        is_own: Whether a text begins as such a result does.

    Raises:
        InputError: The file holds something else.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_TOLD_BY)
    except UnicodeDecodeError:
        text = ""
    if not is_own(text):
        raise InputError(
            f"{flag} would replace {path}, which holds something else than an earlier result; give "
            f"another name, or remove it"
        )


def is_result(text: str, keys: Collection[str]) -> bool:
    """Whether a text is what ``JsonOutput`` writes: an object that begins with one of the keys."""
    first = _FIRST_KEY.match(text)
    return first is not None and first[1] in keys


class JsonOutput:
    """The destination of a command's JSON record."""

    def __init__(self, path: Path | None, keys: Collection[str]) -> None:
        """Check the path before the work starts.

        Args:
            path: A file, which is replaced if it holds a result of any command; a device or pipe,
                which is written to; ``-`` for standard output; None for no output.
            keys: Those that results of commands have.

        Raises:
            InputError: The path is a folder, or a file that holds something else.
        """
        self._path = path
        if path is None or path == STANDARD_OUTPUT:
            return
        if path.is_dir():
            raise InputError(f"--json is {path}, which is a folder; give the name of a file")
        refuse_other_content(path, "--json", lambda text: is_result(text, keys))

    @contextmanager
    def alone_on_standard_output(self) -> Iterator[None]:
        """If the record goes to standard output, print everything else to standard error."""
        console.stderr = self._is_standard_output()
        try:
            yield
        finally:
            console.stderr = False

    def write(self, record: dict[str, Any]) -> None:
        """Write a record as one JSON object."""
        if self._path is None:
            return
        text = json.dumps(record, indent=2, default=str) + "\n"
        if self._is_standard_output():
            sys.stdout.write(text)
        else:
            write_whole(self._path, text)

    def _is_standard_output(self) -> bool:
        if self._path is None or self._path == STANDARD_OUTPUT:
            return self._path is not None
        try:
            return os.path.samestat(self._path.stat(), os.fstat(sys.stdout.fileno())) and not (
                os.path.samestat(self._path.stat(), Path(os.devnull).stat())
            )
        except (OSError, ValueError):  # no such file, or no standard output
            return False
