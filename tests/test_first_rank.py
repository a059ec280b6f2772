# SPDX-License-Identifier: Apache-2.0
"""A rank fails at the start: every rank ends at once, with the sentence that is true."""

from __future__ import annotations

import json
import os
import socket

import pytest

pytest.importorskip("megatron.core")

from tests.conftest import ROOT, chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW
from tests.ranks import run_ranks

SCRIPT = ROOT / "tests" / "megatron" / "start_badly.py"
CORPORA = 40  # each of eight mapped files
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank of each run said."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(CORPORA):
        write_corpus(folder / f"corpus{number:02}", chat_like_lengths(9, longest=ROW, seed=number))
    (output,) = run_ranks(SCRIPT, folder)
    ends = json.loads(output)
    for run, ranks in ends.items():
        assert all(seconds is not None for _, seconds in ranks), (run, ranks)
    return {run: [said for said, _ in ranks] for run, ranks in ends.items()}


def test_who_waits_for_a_rank_that_was_killed_says_that_it_ended(found):
    first, *others = found["killed"]
    assert first == ""
    for said in others:
        assert said.startswith("rank 0 ended while others waited for it to pack the data (")
        assert said.endswith("); its own log says why")


def test_a_folder_that_a_rank_does_not_share_is_named(found):
    first, second, third = found["apart"]
    assert second.startswith("rank 0 has the pack index cache/pack_indexes/")
    assert " seems to be another folder for this rank on " in second
    assert "give a --data-cache-path, or --packing-indexes, that all nodes share" in second
    assert first == third == f"rank 1 on {HOST} could not open the data: {second}"


def test_a_rank_without_descriptors_says_so_to_all(found):
    first, second, third = found["none free"]
    assert "/manifest.json cannot be opened: this process may open only " in second
    assert "raise the limit with: ulimit -n" in second
    assert first == third == f"rank 1 on {HOST} could not open the data: {second}"


def test_256_descriptors_are_enough_for_more_files(found):
    first, second, third = found["256 files"]
    assert first == second
    rows, files = (int(word) for word in second.split() if word.isdigit())
    assert rows == CORPORA
    assert files > 256
    assert third == "opened nothing"  # and had no descriptor


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a rank another user")
def test_a_rank_without_permission_says_whose_the_files_are(found):
    first, second, third = found["forbidden"]
    assert " cannot be opened (Permission denied): this process runs as user 65534" in second
    assert first == third == f"rank 1 on {HOST} could not open the data: {second}"
