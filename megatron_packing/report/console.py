# SPDX-License-Identifier: Apache-2.0
"""Prints results and progress bars to the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from megatron_packing.report.visible import visible


class PlainConsole(Console):
    """Prints text literally: no markup, no emoji codes, control characters made visible.

    It prints paths and data, which may contain ``[b]``, ``:smile:`` or an escape sequence. For
    instances of ``Text`` the caller must make control characters visible.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert every ``str`` that is printed, also in tables."""
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Raise BrokenPipeError, so that the command line can end; rich would exit at once."""
        raise BrokenPipeError


console = PlainConsole(soft_wrap=True)


def print_results_to(stream: TextIO) -> None:
    """Make ``console`` print to another stream."""
    console.file = stream


def close_standard_output() -> None:
    """Redirect standard output to /dev/null, so that Python's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class ProgressBar:
    """A progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: float, note: str) -> None:
        """Show how much is done, with a short note."""
        self._progress.update(self._task, completed=done, note=note)


@contextmanager
def progress_bar(name: str, total: float) -> Iterator[ProgressBar]:
    """Show a bar on standard error while the block runs, if standard error is a terminal."""
    error_console = PlainConsole(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=error_console,
        transient=True,
        disable=not error_console.is_terminal,
    ) as progress:
        yield ProgressBar(progress, progress.add_task(name, total=total, note=""))
