# SPDX-License-Identifier: Apache-2.0
"""A tokenizer is found without the libraries that find it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("transformers")

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_tokenizer
from megatron_packing.tokenizers.process import find_tokenizer_apart

APART = """
import pickle, sys
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.process import find_tokenizer_apart
try:
    found = find_tokenizer_apart(sys.argv[1])
    found.open()
except InputError as error:
    found = str(error)
assert "torch" not in sys.modules and "transformers" not in sys.modules
sys.stdout.buffer.write(pickle.dumps(found))
"""


def found_apart(name):
    import pickle

    process = subprocess.run(
        [sys.executable, "-c", APART, str(name)],
        capture_output=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    return pickle.loads(process.stdout)


def test_it_is_the_one_that_is_found_here(chitchat):
    here = find_tokenizer(str(chitchat / "tokenizer"))
    assert found_apart(chitchat / "tokenizer") == here
    assert find_tokenizer_apart(str(chitchat / "tokenizer")) == here


def test_what_cannot_be_used_is_said_as_here(tmp_path):
    with pytest.raises(InputError, match="could not be loaded") as here:
        find_tokenizer(str(tmp_path / "nowhere"))
    assert found_apart(tmp_path / "nowhere") == str(here.value)
