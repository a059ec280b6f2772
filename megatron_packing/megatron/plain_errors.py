# SPDX-License-Identifier: Apache-2.0
"""Shows what a user gave wrong as one sentence, in scripts that do not catch it themselves."""

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
    """Print an InputError that ends the process as one sentence, without a traceback.

    The status is that of any error, and torchrun repeats the sentence. What was to
    print other errors still does.
    """
    if sys.excepthook is not _show:
        global _others
        _others = sys.excepthook
        sys.excepthook = _show


def tell_torchrun(message: str) -> None:
    """Write the file from which torchrun takes the reason that it prints last."""
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
