# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.limits import TIME_LIMIT

SCRIPT = """
import sys
from megatron_packing.errors import InputError
from megatron_packing.megatron.plain_errors import show_input_errors_as_sentences

show_input_errors_as_sentences()
show_input_errors_as_sentences()
raise (InputError if sys.argv[1] == "input" else OSError)("--flag is wrong; give another")
"""


def end_with(error: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, error],
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )


def test_an_input_error_that_no_one_catches_is_one_sentence():
    end = end_with("input")
    assert end.returncode == 1
    assert end.stderr == "error: --flag is wrong; give another\n"


def test_torchrun_is_told_the_sentence(tmp_path):
    end_with("input", TORCHELASTIC_ERROR_FILE=str(tmp_path / "error.json"))
    record = json.loads((tmp_path / "error.json").read_text())
    assert record["message"] == "error: --flag is wrong; give another"


def test_other_errors_keep_their_traceback():
    end = end_with("other")
    assert end.returncode == 1
    assert "Traceback" in end.stderr
    assert "OSError: --flag is wrong" in end.stderr
