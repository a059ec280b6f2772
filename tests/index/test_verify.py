from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from megatron_packing import STRATEGIES, PackIndex
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PlanSettings
from megatron_packing.index.verify import verify_pack_index
from tests.conftest import chat_like_lengths, write_corpus


def build(tmp_path, strategy="first_fit_decreasing", overlong="split"):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=200))
    plan = PlanSettings(
        strategy=strategy, sequence_length=100, overlong=overlong, packs_multiple_of=4, seed=5
    )
    return corpus, build_pack_index(corpus, plan, tmp_path / "index")


def rewrite(index: PackIndex, **arrays: np.ndarray) -> PackIndex:
    """Replace arrays and their hashes: what a faulty planner would have written."""
    manifest = json.loads((index.path / "manifest.json").read_text())
    for name, array in arrays.items():
        np.save(index.path / f"{name}.npy", array)
        manifest["arrays"][name] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(array)).hexdigest(),
        }
    (index.path / "manifest.json").write_text(json.dumps(manifest))
    return PackIndex.open(index.path)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_the_strategies_plan_is_right(tmp_path, strategy):
    corpus, index = build(tmp_path, strategy)
    verify_pack_index(index, corpus.num_tokens)


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_what_was_left_out_as_planned_is_right(tmp_path, overlong):
    corpus, index = build(tmp_path, overlong=overlong)
    assert index.figures.num_positions_lost > 0
    verify_pack_index(index, corpus.num_tokens)


def test_a_missing_document_is_found(tmp_path):
    corpus, index = build(tmp_path)
    lengths = np.array(index.segment_lengths)
    starts = np.array(index.segment_starts)
    at = int(np.argmax(lengths > 1))
    starts[at], lengths[at] = starts[at] + 1, lengths[at] - 1
    bad = rewrite(index, segment_starts=starts, segment_lengths=lengths)
    with pytest.raises(InputError, match=rf"document {index.document_ids[at]} lacks positions: 1 "):
        verify_pack_index(bad, corpus.num_tokens)


def test_a_document_in_two_packs_is_found(tmp_path):
    corpus, index = build(tmp_path, overlong="drop")
    documents = np.array(index.document_ids)
    documents[0] = documents[1]
    bad = rewrite(index, document_ids=documents)
    with pytest.raises(InputError, match=r"more than once|has \d+ positions in a row"):
        verify_pack_index(bad, corpus.num_tokens)


def test_an_overfull_pack_is_found(tmp_path):
    corpus, index = build(tmp_path)
    offsets = np.array(index.pack_offsets)
    offsets[1:-1] = offsets[-1]
    bad = rewrite(index, pack_offsets=offsets)
    with pytest.raises(InputError, match=r"pack 0 has \d+ positions in a row of 100"):
        verify_pack_index(bad, corpus.num_tokens)


def test_a_document_that_the_corpus_lacks_is_found(tmp_path):
    corpus, index = build(tmp_path)
    documents = np.array(index.document_ids)
    documents[3] = 200
    bad = rewrite(index, document_ids=documents)
    with pytest.raises(InputError, match="document 200 is not one of the documents 0 to 199"):
        verify_pack_index(bad, corpus.num_tokens)


def test_a_segment_that_runs_over_its_document_is_found(tmp_path):
    corpus, index = build(tmp_path)
    starts = np.array(index.segment_starts)
    starts[7] += 1000
    bad = rewrite(index, segment_starts=starts)
    with pytest.raises(InputError, match=rf"a segment of document {index.document_ids[7]} runs"):
        verify_pack_index(bad, corpus.num_tokens)


def test_falling_offsets_are_found(tmp_path):
    corpus, index = build(tmp_path)
    offsets = np.array(index.pack_offsets)
    offsets[2] = offsets[1] - 1
    with pytest.raises(InputError, match="the pack offsets fall after pack 1"):
        verify_pack_index(rewrite(index, pack_offsets=offsets), corpus.num_tokens)


def test_a_changed_array_is_found_by_its_hash(tmp_path):
    corpus, index = build(tmp_path)
    path = index.path / "document_ids.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"document_ids.npy is not what was written"):
        verify_pack_index(PackIndex.open(index.path), corpus.num_tokens)
