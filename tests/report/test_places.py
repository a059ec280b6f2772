# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest

from megatron_packing.cli import main
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.report.places import places_of, positions_left_out
from megatron_packing.thd.rows import PackedRows
from tests.conftest import write_corpus

LENGTHS = [1, 200, 3, 17, 65, 66, 2, 130, 64, 5, 40, 9, 1, 33, 12, 64, 64, 30]
"""Tokens; rows have 64 positions."""


def make_index(corpus, folder, **options):
    settings = PlanSettings(sequence_length=64, **options)
    return build_pack_index(corpus, settings, folder)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "chat", LENGTHS)


def positions_in_rows(index, corpus):
    """Read every row as training does, and find each document's tokens by the row's layout."""
    rows = PackedRows(index=index, corpus=corpus, seed=0, new_order_each_epoch=False)
    found = defaultdict(list)
    for pack in range(len(index)):
        row = rows.row(pack)
        starts = row["cu_seqlens"][: len(index.segments(pack, corpus.num_tokens).lengths)]
        for start, length, (document, first, _) in zip(
            starts.tolist(),
            row["real_lengths"].tolist(),
            index.segments(pack, corpus.num_tokens),
            strict=False,
        ):
            tokens = row["tokens"][start : start + length]
            np.testing.assert_array_equal(tokens, corpus.tokens(document, first, first + length))
            found[document].append((pack, start, first, length))
    return found


@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("overlong", ["split", "truncate", "drop"])
def test_a_document_is_where_its_tokens_are_in_rows(corpus, tmp_path, alignment, overlong):
    index = make_index(corpus, tmp_path / "packs", alignment=alignment, overlong=overlong)
    expected = positions_in_rows(index, corpus)
    missing = positions_left_out(index, corpus.num_tokens)
    for document, tokens in enumerate(LENGTHS):
        places = places_of(index, corpus.num_tokens, document)
        pairs = [(p.pack, p.row_position, p.first_position, p.num_positions) for p in places]
        assert pairs == expected[document]
        held = sum(p.num_positions for p in places)
        assert missing.get(document, 0) == tokens - 1 - held
        assert (document in missing) == (held < tokens - 1 or tokens < 2)
    assert sum(missing.values()) == index.figures.num_positions_lost
    assert bool(sum(missing.values())) == (overlong != "split")


def test_only_the_packed_range_of_a_corpus_is_looked_at(corpus, tmp_path):
    settings = PlanSettings(sequence_length=64, overlong="drop")
    index = build_pack_index(corpus, settings, tmp_path / "packs", documents=range(3, 13))
    assert positions_left_out(index, corpus.num_tokens) == {5: 65, 7: 129, 12: 0}


def shown(capsys, *words):
    assert main(["show", *map(str, words)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_rows_of_a_pack_are_shown_as_they_are_trained(corpus, tmp_path, capsys):
    """With an alignment, a document begins after the pads of the one before it."""
    index = make_index(corpus, tmp_path / "packs", alignment=8, overlong="drop")
    pack = max(range(len(index)), key=lambda p: np.diff(index.pack_offsets)[p])
    expected = positions_in_rows(index, corpus)
    text = shown(capsys, index.path, "--pack", pack, "--ids")
    assert ", each in a multiple of 8" in text
    places = [
        (start, length, d) for d in expected for p, start, _, length in expected[d] if p == pack
    ]
    assert len(places) > 2
    for start, length, document in places:
        assert f"row {start} to {start + length - 1}: document {document}" in text
    tail = max(start + -(-length // 8) * 8 for start, length, _ in places)
    assert (f"row {tail} to 63: tail" in text) == (tail < 64)


def test_the_packs_of_a_document_are_shown(corpus, tmp_path, capsys):
    index = make_index(corpus, tmp_path / "packs", overlong="split")
    places = places_of(index, corpus.num_tokens, 1)
    assert len(places) == 4
    text = shown(capsys, index.path, "--document", 1, "--ids")
    for at in places:
        end = at.first_position + at.num_positions - 1
        assert f"in pack {at.pack}, row {at.row_position} to" in text
        assert f": its positions {at.first_position} to {end}" in text
    (whole,) = places_of(index, corpus.num_tokens, 3)
    text = shown(capsys, index.path, "--document", 3, "--ids")
    assert text.endswith(
        f"in pack {whole.pack}, row {whole.row_position} to {whole.row_position + 15}"
    )
    assert shown(capsys, index.path, "--document", 0, "--ids").endswith(
        f"in no pack of {index.path}"
    )
    main(["show", str(index.path), "--document", "1", "--ids", "--json", "-"])
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert [one["first_position"] for one in segments] == [at.first_position for at in places]


def test_documents_that_no_pack_holds_whole_are_listed(corpus, tmp_path, capsys):
    index = make_index(corpus, tmp_path / "packs", overlong="truncate")
    text = shown(capsys, index.path, "--left-out")
    assert f"5 of 18 documents are not whole in packs; {135 + 1 + 65} positions left out" in text
    for line in ("0 1 0 under 2 tokens", "1 200 135 cut", "5 66 1 cut", "7 130 65 cut"):
        assert line in text
    index = make_index(corpus, tmp_path / "dropped", overlong="drop")
    assert "5 66 65 dropped" in shown(capsys, index.path, "--left-out")
    main(["show", str(index.path), "--left-out", "--json", "-"])
    listed = json.loads(capsys.readouterr().out)["left_out"]
    assert [one["document"] for one in listed] == [0, 1, 5, 7, 12]
    assert sum(one["num_positions_left_out"] for one in listed) == index.figures.num_positions_lost


def test_a_long_list_is_cut_on_the_terminal_alone(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "chat", [100] * 30 + [5])
    index = make_index(corpus, tmp_path / "packs", overlong="truncate")
    text = shown(capsys, index.path, "--left-out")
    assert "19 100 35 cut 10 more documents: --json FILE lists all" in text
    main(["show", str(index.path), "--left-out", "--json", "-"])
    assert len(json.loads(capsys.readouterr().out)["left_out"]) == 30


def test_nothing_left_out_is_said(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "chat", [5, 6, 100])
    index = make_index(corpus, tmp_path / "packs", overlong="split")
    assert shown(capsys, index.path, "--left-out") == "packs hold every position of 3 documents"


def test_documents_left_out_of_several_corpora_are_named(tmp_path, capsys):
    first = write_corpus(tmp_path / "first", [5, 100])
    second = write_corpus(tmp_path / "second", [6, 7, 90])
    words = ["pack", f"{first.prefix}", f"{second.prefix}:2", "--sequence-length", "64"]
    assert main([*words, "--overlong", "drop", "--output", str(tmp_path / "packs")]) == 0
    capsys.readouterr()
    main(["show", str(tmp_path / "packs"), "--left-out", "--json", "-"])
    listed = json.loads(capsys.readouterr().out)["left_out"]
    assert [(one["corpus"], one["document_of_corpus"]) for one in listed] == [
        (str(first.prefix), 1),
        (str(second.prefix), 2),
        (str(second.prefix), 2),
    ]


def test_left_out_needs_an_index(corpus, capsys):
    assert main(["show", str(corpus.prefix), "--left-out"]) == 1
    assert "is not a pack index" in capsys.readouterr().err
