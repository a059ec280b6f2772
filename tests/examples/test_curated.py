# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES
from tests.limits import TIME_LIMIT

pytest.importorskip("datatrove")
pytest.importorskip("transformers")


def test_what_curation_tools_write_is_read_as_it_is(chitchat, tmp_path):
    process = subprocess.run(
        [
            *(sys.executable, EXAMPLES / "curated.py", tmp_path / "curated"),
            *("--tokenizer", chitchat / "tokenizer"),
        ],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    *_, datatrove, curator = process.stdout.splitlines()
    assert datatrove == "datatrove: 2 documents, [13 15] tokens"
    assert curator == "curator: 2 documents, [13 15] tokens"
