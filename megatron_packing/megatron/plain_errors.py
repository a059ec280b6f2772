"""Shows what a user gave wrong as one sentence, in scripts that do not catch it themselves."""

from __future__ import annotations

import sys
from types import TracebackType

from megatron_packing.errors import InputError


def show_input_errors_as_sentences() -> None:
    """Print an InputError that ends the process as one sentence, without a traceback.

    The status is that of any error. What was to print other errors still does.
    """
    if sys.excepthook is not _show:
        global _others
        _others = sys.excepthook
        sys.excepthook = _show


_others = sys.__excepthook__


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, InputError):
        sys.stderr.write(f"error: {error}\n")
    else:
        _others(kind, error, traceback)
