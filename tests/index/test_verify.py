# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from megatron_packing import STRATEGIES, Corpus, PackIndex
from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.verify import prove_lower_bound, verify_content, verify_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows
from tests.conftest import chat_like_lengths, write_corpus
from tests.index.manifest_file import edit_manifest, set_field


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
    if "pack_offsets" in arrays:
        manifest["figures"]["max_documents_per_pack"] = int(np.diff(arrays["pack_offsets"]).max())
    edit_manifest(index.path, lambda old: old.update(manifest))
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


FORGED = [
    ("num_positions", 1),
    ("max_documents_per_pack", 1),
    ("num_documents_split", 1),
    ("num_documents_dropped", 1),
    ("num_documents_truncated", 1),
    ("num_documents_empty", 1),
    ("num_positions_lost", 1),
    ("num_documents_untrained", 1),
    ("num_packs_untrained", 1),
    ("utilisation", -0.01),
    ("lower_bound", 1000),
]


@pytest.mark.parametrize(("name", "change"), FORGED)
def test_forged_figures_are_found(tmp_path, monkeypatch, name, change):
    monkeypatch.setattr("megatron_packing.index.pack_index.HASHED_BYTES", 0)
    corpus, index = build(tmp_path)
    verify_content(index, corpus)
    found = getattr(index.figures, name)
    edit_manifest(index.path, set_field(f"figures.{name}", found + change))
    forged = PackIndex.open(index.path)

    def verify():
        verify_pack_index(forged, corpus.num_tokens)
        verify_content(forged, corpus)

    with pytest.raises(InputError, match=r"is wrong: .*; make the pack index again"):
        verify()


@pytest.mark.parametrize(
    ("strategy", "overlong"),
    [
        *((strategy, "split") for strategy in STRATEGIES),
        ("optimal", "drop"),
        ("greedy", "truncate"),
    ],
)
def test_the_lower_bound_is_proven_anew(tmp_path, strategy, overlong):
    corpus, index = build(tmp_path, strategy, overlong)
    verify_pack_index(index, corpus.num_tokens)
    bound = index.figures.lower_bound
    assert prove_lower_bound(index, corpus.num_tokens) == bound
    edit_manifest(index.path, set_field("figures.lower_bound", bound + 1))
    assert prove_lower_bound(PackIndex.open(index.path), corpus.num_tokens) == bound


@pytest.mark.parametrize(
    ("made", "said"),
    [("split", "drop"), ("drop", "split"), ("drop", "error"), ("truncate", "drop")],
)
def test_a_plan_that_left_documents_otherwise_than_it_says_is_found(tmp_path, made, said):
    corpus, index = build(tmp_path, overlong=made)
    edit_manifest(index.path, set_field("plan.overlong", said), digest="none")
    with pytest.raises(InputError, match=rf"its plan says overlong {said} and \d+ documents are"):
        verify_pack_index(PackIndex.open(index.path), corpus.num_tokens)


def with_masks(prefix, lengths, masks):
    with IndexedDatasetWriter(prefix, np.dtype(np.int32)) as tokens:
        tokens.add(np.arange(sum(lengths)), np.array(lengths))
    with IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as writer:
        writer.add(np.concatenate(masks), np.array(lengths))
    return Corpus(prefix)


def test_documents_and_packs_that_train_nothing_are_counted(tmp_path):
    """By hand: a first token is no label, and truncation may leave no trained one."""
    lengths = [5, 5, 14, 9, 3]
    masks = [np.zeros(length, np.uint8) for length in lengths]
    masks[0][4] = 1
    masks[1][0] = 1  # no label
    masks[2][13] = 1  # cut off at 10 positions
    masks[3][1] = 1
    corpus = with_masks(tmp_path / "corpus", lengths, masks)
    plan = PlanSettings(strategy="padding", sequence_length=10, overlong="truncate")
    figures = build_pack_index(corpus, plan, tmp_path / "packs").figures
    assert (figures.num_documents_untrained, figures.num_packs_untrained) == (3, 3)
    split = PlanSettings(strategy="padding", sequence_length=10, overlong="split")
    figures = build_pack_index(corpus, split, tmp_path / "split").figures
    assert (figures.num_documents_untrained, figures.num_packs_untrained) == (2, 3)


def test_packs_without_a_trained_token_are_refused(tmp_path):
    masks = [np.zeros(5, np.uint8), np.zeros(7, np.uint8)]
    corpus = with_masks(tmp_path / "corpus", [5, 7], masks)
    plan = PlanSettings(strategy="optimal", sequence_length=10)
    with pytest.raises(InputError, match=r"no token in the packs of .*corpus is trained"):
        build_pack_index(corpus, plan, tmp_path / "packs")
    assert not (tmp_path / "packs").exists()


@pytest.mark.parametrize("joined", [False, True])
def test_trained_labels_are_counted_as_rows_have_them(tmp_path, joined):
    """Against the loss masks of the rows themselves."""
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=90))
    for path in tmp_path.glob("corpus_loss_mask.bin"):
        masks = np.fromfile(path, np.uint8)
        masks[: len(masks) // 2] = 0
        masks.tofile(path)
    corpus = open_corpus(f"{corpus.prefix}:1.4" if joined else corpus.prefix)
    for strategy in ("random", "optimal"):
        plan = PlanSettings(strategy=strategy, sequence_length=40, overlong="split")
        index = build_pack_index(corpus, plan, tmp_path / strategy)
        rows = PackedRows(index=index, corpus=corpus, seed=0, new_order_each_epoch=False)
        per_pack = [int(rows.row(pack)["denominator"]) for pack in range(len(index))]
        assert index.figures.num_packs_untrained == per_pack.count(0) > 0
        verify_content(index, corpus)


def test_a_deep_verification_sees_every_changed_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_packing.corpus.fingerprint._SAMPLED_BLOCKS", 2)
    monkeypatch.setattr("megatron_packing.corpus.fingerprint._BLOCK_BYTES", 16)
    corpus = write_corpus(tmp_path / "corpus", [50, 60, 70])
    plan = PlanSettings(strategy="optimal", sequence_length=100)
    index = build_pack_index(corpus, plan, tmp_path / "packs", hash_content=True)
    assert index.corpus.largest_token == max(corpus.tokens(i).max() for i in range(3))
    verify_content(index, corpus, deep=True)
    for name in ("corpus.bin", "corpus_loss_mask.bin"):
        path = tmp_path / name
        content = bytearray(path.read_bytes())
        content[84] ^= 1
        path.write_bytes(content)
        changed = Corpus(corpus.prefix)
        index.check_corpus(changed.prefix, changed.fingerprint)  # which does not see it
        with pytest.raises(InputError, match=rf"{name} was changed after|largest token|untrained"):
            verify_content(index, changed, deep=True)
        content[84] ^= 1
        path.write_bytes(content)
    index = build_pack_index(corpus, plan, tmp_path / "without")
    with pytest.raises(InputError, match="holds no hashes of its corpus's data"):
        verify_content(index, corpus, deep=True)


def test_a_corpus_of_another_tokenizer_is_found(tmp_path):
    """The record of a corpus is no part of its fingerprint."""

    def record(tokenizer):
        content = {"tokenizer": "none", "tokenizer_sha256": tokenizer * 32}
        (tmp_path / "corpus_corpus.json").write_text(json.dumps(content))

    write_corpus(tmp_path / "corpus", [50, 60, 70])
    record("ab")
    plan = PlanSettings(strategy="optimal", sequence_length=100)
    index = build_pack_index(open_corpus(tmp_path / "corpus"), plan, tmp_path / "packs")
    assert index.corpus.tokenizer_sha256 == "ab" * 32
    verify_content(index, open_corpus(tmp_path / "corpus"))
    record("cd")
    changed = open_corpus(tmp_path / "corpus")
    index.check_corpus(Path(index.corpus.prefix), changed.fingerprint)  # which does not see it
    with pytest.raises(InputError, match=r"its tokenizer is abababababab, but that of .* is cdcd"):
        verify_content(index, changed)


def test_an_index_of_more_documents_than_there_are_is_found(tmp_path):
    corpus, index = build(tmp_path)
    with pytest.raises(InputError, match="documents 0 to 199, but the corpus has 199 documents"):
        verify_pack_index(index, corpus.num_tokens[:-1])
