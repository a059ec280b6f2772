# SPDX-License-Identifier: Apache-2.0
"""Runs megatron-packing in forked processes that end at a call which changes names.

See ``tests.forked_ranks`` for what it reads. ``killed_at`` beside it is the number of the call: an
even one ends the process before a call, an odd one after it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_packing.cli import main
from megatron_packing.files import publication
from tests.forked_ranks import serve

NAMES = ("rename", "replace", "link", "unlink", "rmdir", "mkdir")


def run_killed(request: dict, rank: int) -> None:
    """Run one command until it is killed, or to its end."""
    del rank
    left = request["killed_at"]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if left == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 2
            return result

        return call

    for name in NAMES:
        setattr(os, name, deadly(getattr(os, name)))
    publication._rename_noreplace = deadly(publication._rename_noreplace)
    sys.exit(main(request["argv"]))


if __name__ == "__main__":
    for name in ("pyarrow.parquet", "transformers", "megatron_packing.tokenize.run"):
        with suppress(ModuleNotFoundError):  # imported late otherwise, by each process
            importlib.import_module(name)
    serve(run_killed)
