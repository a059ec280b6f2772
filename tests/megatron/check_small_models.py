# SPDX-License-Identifier: Apache-2.0
"""Runs megatron-packing check-model for several models, one after another, in one process.

    check_small_models.py CASES.json

A case is {"words": [...], "bug": NAME or null}: the command line, and what is broken meanwhile.
Prints a JSON list of what came of each: the status, the output, the error, and the record.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from megatron_packing.cli import main
from tests.megatron import plain_mamba


def forget_seq_idx():
    from megatron_packing.megatron import batch

    return patch.object(batch, "_with_segment_index", lambda _, batch: batch.packed_seq_params)


def run(words: list[str], bug: str | None) -> dict:
    output, error = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(error),
            forget_seq_idx() if bug else contextlib.nullcontext(),
        ):
            status = main(["check-model", *words, "--json", str(path)])
        record = json.loads(path.read_text()) if path.exists() else None
    return {
        "status": status,
        "output": " ".join(output.getvalue().split()),
        "error": error.getvalue().strip(),
        "record": record,
    }


if __name__ == "__main__":
    plain_mamba.install()
    cases = json.loads(Path(sys.argv[1]).read_text())
    answers = [run(case["words"], case.get("bug")) for case in cases]
    sys.stdout.write(f"ANSWERS {json.dumps(answers)}\n")
