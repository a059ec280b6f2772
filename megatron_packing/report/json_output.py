# SPDX-License-Identifier: Apache-2.0
"""Writes results as JSON to a file or to standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.files.whole import write_whole
from megatron_packing.report.console import console

STANDARD_OUTPUT = Path("-")


class JsonOutput:
    """The destination of a command's JSON record."""

    def __init__(self, path: Path | None) -> None:
        """Check the path before the work starts.

        Args:
            path: A file, which is replaced; a device or pipe, which is written to; ``-`` for
                standard output; None for no output.

        Raises:
            InputError: The path is a folder.
        """
        self._path = path
        if path is not None and path != STANDARD_OUTPUT and path.is_dir():
            raise InputError(f"--json is {path}, which is a folder; give the name of a file")

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
