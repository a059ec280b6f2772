"""The terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


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
    error_console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=error_console,
        transient=True,
        disable=not error_console.is_terminal,
    ) as progress:
        yield ProgressBar(progress, progress.add_task(name, total=total, note=""))
