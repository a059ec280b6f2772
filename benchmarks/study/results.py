# SPDX-License-Identifier: Apache-2.0
"""A CSV file of finished runs that is whole whenever a writer ends."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

Line = TypeVar("Line")
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run."""

    condition: str
    seed: int
    steps: int
    documents_per_step: float
    trained_tokens_per_step: float
    token_spread: float
    """Standard deviation of the trained tokens of a step, as a share of their mean."""
    cpu_seconds: int
    data: str
    """The first digits of the fingerprint of the training corpus."""
    base: str
    """The first digits of the SHA-256 of the weights that the run started from."""
    loss_by_epoch: str
    """Mean loss of a held-out trained token after each epoch, separated by spaces."""
    loss: float
    """Mean loss of a held-out trained token after the last step."""
    document_losses: str
    """Of each held-out document: the mean loss of its trained tokens, in thousandths, separated by
    spaces."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies a run."""
        return self.condition, self.seed


def read_results(path: Path, kind: type[Line] = Result) -> list[Line]:  # type: ignore[assignment]
    """Read the whole lines; nothing if there is no file.

    Args:
        path: The file.
        kind: A dataclass whose fields are the columns: integers, floats and texts.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    lines = [line for line in whole.splitlines() if not line.startswith("#")]
    kinds = {one.name: _KINDS[str(one.type)] for one in fields(kind)}
    return [
        kind(**{name: kinds[name](value) for name, value in row.items()})
        for row in csv.DictReader(lines)
    ]


def append_result(path: Path, result: Any, comment: str) -> None:
    """Append a line to the file, which survives a crash once this returns.

    Args:
        path: The file; a new one gets ``comment`` and the names of the columns first.
        result: The line, a dataclass as for ``read_results``.
        comment: Lines that say what the file is and which command made it.
    """
    names = [field.name for field in fields(result)]
    head = "".join(f"# {line}\n" for line in comment.splitlines()) + ",".join(names) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        text = file.read()
        # A line, or the head, that was being written when its writer ended is dropped.
        whole = text.rfind(b"\n") + 1
        has_head = any(line.startswith(names[0].encode()) for line in text[:whole].splitlines())
        file.truncate(whole if has_head else 0)
        row = io.StringIO()
        csv.DictWriter(row, names, lineterminator="\n").writerow(asdict(result))
        file.write((("" if has_head else head) + row.getvalue()).encode())
        file.flush()
        os.fsync(file.fileno())
