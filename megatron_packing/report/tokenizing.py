# SPDX-License-Identifier: Apache-2.0
"""Prints the progress line and the summary of a tokenize run."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from megatron_packing.counted import counted
from megatron_packing.report.console import PlainConsole, console
from megatron_packing.report.visible import visible
from megatron_packing.schemas.media_placeholders import PHRASE
from megatron_packing.tokenize.engine import OnWorkers, WorkerCount
from megatron_packing.tokenize.progress import Listener
from megatron_packing.tokenize.progress import Progress as Done
from megatron_packing.tokenize.unfinished import rejects_path

_SECONDS_BETWEEN_LINES = 30.0
_MAX_DETAILS = 20
_MANY_INPUTS = 100
_MEMORY_PER_BYTE = 105  # measured: 20 GB for a line of 200 MB


@contextmanager
def progress_line() -> Iterator[tuple[Listener, OnWorkers]]:
    """Show progress and speed on standard error; without a terminal, print a line every 30 s.

    What is yielded takes the progress, and the workers of a cluster.
    """
    error_console = PlainConsole(stderr=True)
    live = Progress(
        BarColumn(12),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}{task.fields[workers]}", markup=False),
        console=error_console,
        transient=True,
        disable=not error_console.is_terminal,
    )
    task = live.add_task("", total=None, note="", workers="")
    workers = ""
    began: tuple[float, int, int, int] | None = None
    last_line = time.monotonic()

    def show(done: int, total: int, progress: Done) -> None:
        nonlocal began, last_line
        now = time.monotonic()
        if began is None:
            began = (now, done, progress.num_records, progress.num_tokens)
            if progress.num_records:
                sys.stderr.write(f"resuming after {counted(progress.num_records, 'record')}\n")
        seconds = max(now - began[0], 1e-9)
        rejects = f", {counted(progress.num_rejects, 'reject')}" if progress.num_rejects else ""
        records_per_second = (progress.num_records - began[2]) / seconds
        note = (
            f"{counted(progress.num_records, 'record')}, {records_per_second:,.0f}/s, "
            f"{(progress.num_tokens - began[3]) / seconds / 1e6:.2f}M tokens/s{rejects}"
        )
        live.update(task, completed=done, total=total, note=note)
        if not error_console.is_terminal and now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            remaining = (total - done) * seconds / max(done - began[1], 1)
            sys.stderr.write(
                f"tokenizing {done / max(total, 1):.1%}: {note}{workers}, "
                f"{remaining:,.0f} s to go\n"
            )

    def show_workers(count: WorkerCount) -> None:
        nonlocal workers
        workers = f", {count}"
        live.update(task, workers=workers)

    with live:
        yield show, show_workers


def show_search(done: int, total: int) -> None:
    """With many inputs, print about ten lines that count the inspected inputs.

    Args:
        done: Inputs that were inspected.
        total: All inputs.
    """
    if total >= _MANY_INPUTS and (done == total or done % (total // 10) == 0):
        sys.stderr.write(f"inspected {done:,} of {total:,} inputs\n")


def warn_of_memory(max_record_bytes: int) -> None:
    """Warn on standard error if one record may need more memory than this machine has."""
    needed = max_record_bytes * _MEMORY_PER_BYTE
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        sys.stderr.write(
            f"warning: a record of --max-record-bytes {max_record_bytes:,} may need "
            f"{needed / 1e9:,.0f} GB of memory, but this machine has {available / 1e9:,.0f} GB\n"
        )


def print_result(prefix: Path, progress: Done) -> None:
    """Print the counts of records, documents, rejects and tokens."""
    by_schema = Counter(progress.schemas).most_common()
    schemas = ", ".join(name for name, _ in by_schema)
    if len(by_schema) > 1:
        schemas = ", ".join(f"{count:,} {name}" for name, count in by_schema)
    if progress.num_rejects:
        table = Table(title="records that were not used", title_justify="left", box=None)
        table.add_column("", style="yellow")
        table.add_column("records", justify="right")
        for kind, count in Counter(progress.rejects).most_common():
            table.add_row(kind, f"{count:,}")
        console.print(table)
        console.print(f"each with its location and reason: {rejects_path(prefix)}")
    console.print(
        f"{prefix}: {counted(progress.num_records, 'record')} ({schemas}) = "
        f"{counted(progress.num_documents, 'document')} + "
        f"{counted(progress.num_rejects, 'reject')}"
    )
    if count := progress.num_with_special_tokens:
        console.print(
            f"{counted(count, 'document contains', 'documents contain')} special tokens in "
            f"{'its' if count == 1 else 'their'} own text, such as an end of turn; they became "
            f"special tokens",
            style="yellow",
        )
    if len(by_schema) > 1 and "text" in progress.schemas:
        console.print(
            f"{counted(progress.schemas['text'], 'record')} of plain text among conversations; "
            f"every token of plain text is trained; the first is {progress.first_places['text']}",
            style="yellow",
            markup=False,
            highlight=False,
        )
    if count := progress.num_unmarked_answers:
        console.print(
            f"{counted(count, 'answer is', 'answers are')} not trained, because the "
            f"{'record marks it' if count == 1 else 'records mark them'} as untrained",
            style="yellow",
        )
    for mapping in progress.unmatched_mappings:
        console.print(
            f"warning: {visible(mapping)} did not match anything in any record",
            style="yellow",
            markup=False,
            highlight=False,
        )
    for line in _notes(progress.notes, progress.first_places):
        console.print(line, style="yellow", markup=False, highlight=False)
    console.print(
        f"{counted(progress.num_tokens, 'token')}, {progress.num_trained_tokens:,} of them trained "
        f"({progress.num_trained_tokens / progress.num_tokens:.1%}); "
        f"longest document {counted(progress.longest_document, 'token')}"
    )


def _notes(notes: Mapping[str, int], first_places: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each phrase with its details, the most frequent first."""
    phrases: dict[str, list[tuple[str, int]]] = {}
    for note, count in sorted(notes.items(), key=lambda item: (-item[1], item[0])):
        phrase, _, detail = note.partition(": ")
        phrases.setdefault(phrase, []).append((detail, count))
    for phrase, details in phrases.items():
        named = [f"{detail} ({counted(count, 'document')})" for detail, count in details if detail]
        more = [f"and {len(named) - _MAX_DETAILS:,} more"] if len(named) > _MAX_DETAILS else []
        counts = [counted(count, "document") for detail, count in details if not detail]
        if phrase == PHRASE:
            place = first_places.get(f"{phrase}: {details[0][0]}", "")
            more.append(f"the first {details[0][0]} is in {place}")
        yield f"{phrase}: {', '.join([*counts, *named[:_MAX_DETAILS], *more])}"
