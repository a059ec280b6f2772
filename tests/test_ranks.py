# SPDX-License-Identifier: Apache-2.0
"""Many ranks, one of which packs, and file systems that show files late."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.megatron import cached_indexes
from tests.conftest import ROOT, chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW, build
from tests.ranks import run_ranks

SCRIPT = ROOT / "tests" / "megatron" / "build_slowly.py"


def run(folder: Path, *arguments: object) -> list[str]:
    write_corpus(folder / "corpus", chat_like_lengths(200, longest=ROW))
    return run_ranks(SCRIPT, folder, *arguments, ranks=2)


@pytest.mark.slow
def test_packing_longer_than_the_process_groups_time_limit_ends_no_rank(tmp_path):
    """Each of two splits takes 5 seconds on rank 0; collectives are given up after 3."""
    first, second = run(tmp_path, 5, 5, "shared")
    assert first.startswith("rank 0: ")
    assert second == first.replace("rank 0", "rank 1")


@pytest.mark.slow
def test_a_rank_that_cannot_pack_tells_the_others_at_once(tmp_path):
    """They would wait for an hour."""
    outputs = run(tmp_path, 2, 60, "failing")
    first, second = outputs
    assert "longer than the sequence length 8" in first
    assert second == f"rank 0 could not pack the data: {first}"


def test_a_damaged_index_is_named_at_once(tmp_path):
    """Nobody waits for one that is there, as for one that is being made."""
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=ROW))
    (train, _, _) = build([corpus.prefix], tmp_path)
    array = train.index.path / "document_ids.npy"
    array.write_bytes(array.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"document_ids.npy cannot be opened"):
        build([corpus.prefix], tmp_path)


def test_packing_at_the_start_says_how_far_it_is(tmp_path, monkeypatch, caplog):
    def build_in_steps(*arguments, progress, **options):
        for share in (0.25, 0.5):  # as the core does where it takes long
            progress(share)
        return build_pack_index(*arguments, progress=progress, **options)

    monkeypatch.setattr(cached_indexes, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr(cached_indexes, "build_pack_index", build_in_steps)
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=ROW))
    with caplog.at_level("INFO", cached_indexes.logger.name):
        build([corpus.prefix], tmp_path)
    for text in (f"packing {corpus.prefix}: 25%", f"{corpus.prefix}: 50%", "packed 200 documents"):
        assert text in caplog.text
