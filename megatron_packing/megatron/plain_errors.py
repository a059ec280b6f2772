# SPDX-License-Identifier: Apache-2.0
"""Prints an uncaught InputError as one sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from megatron_packing.errors import InputError


def show_input_errors_as_sentences() -> None:
    """Install an exception hook that prints an InputError as one sentence, without a traceback.

    The exit status stays that of any uncaught error, and torchrun repeats the sentence. Other
    errors go to the hook that was installed before.
    """
    if sys.excepthook is not _show:
        global _others
        _others = sys.excepthook
        sys.excepthook = _show


def tell_torchrun(message: str) -> None:
    """Write the error file whose message torchrun prints at its end."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        record = {"message": message, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(json.dumps(record), encoding="utf-8")


_others = sys.__excepthook__


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, InputError):
        tell_torchrun(f"error: {error}")
        sys.stderr.write(f"error: {error}\n")
    else:
        _others(kind, error, traceback)
