# SPDX-License-Identifier: Apache-2.0
"""The terminal."""

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
    """Prints texts as they are: no markup, no emoji codes, control characters visibly.

    Paths and data are printed through it, and either may hold ``[b]``, ``:smile:`` or an escape
    sequence. Instances of ``Text`` are the caller's to make visible.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """What becomes of every ``str`` that is printed, in tables too."""
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Let the command line end, where rich would leave the process at once."""
        raise BrokenPipeError


console = PlainConsole(soft_wrap=True)


def print_results_to(stream: TextIO) -> None:
    """Send what ``console`` prints to another stream than standard output."""
    console.file = stream


def close_standard_output() -> None:
    """Stop writing to a pipe whose reader has ended, when Python flushes its end too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class ProgressBar:
    """One live bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: float, note: str) -> None:
        """Show how much is done, and a few words."""
        self._progress.update(self._task, completed=done, note=note)


@contextmanager
def progress_bar(name: str, total: float) -> Iterator[ProgressBar]:
    """Show a bar on standard error while the block runs; nothing where that is no terminal."""
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
