# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing compare`` as its users type it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megatron_packing import STRATEGIES
from megatron_packing.cli import main
from megatron_packing.report.console import console
from tests.commands.test_cli import fails
from tests.conftest import chat_like_lengths, write_corpus


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=129))


def test_it_shows_every_strategy_side_by_side(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 200)  # every strategy has a column
    length = ["--sequence-length", "128", "--global-batch-size", "4"]
    path = tmp_path / "figures.json"
    assert main(["compare", str(corpus.prefix), *length, "--json", str(path)]) == 0
    output = capsys.readouterr().out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [plan["strategy"] for plan in record["plans"]] == list(STRATEGIES)
    assert f"lower bound {record['lower_bound']} packs" in " ".join(output.split())
    (packs,) = (line.split()[1:] for line in output.splitlines() if line.startswith("packs "))
    assert [int(count) for count in packs] == [plan["num_packs"] for plan in record["plans"]]
    assert "Llama 3 8B" in output
    for plan in record["plans"]:
        assert plan["steps"] == -(-plan["num_packs"] // 4)

    lengths = tmp_path / "lengths.npy"
    np.save(lengths, corpus.num_tokens - 1)
    again = tmp_path / "again.json"
    assert main(["compare", "--lengths", str(lengths), *length, "--json", str(again)]) == 0
    for one, other in zip(
        record["plans"], json.loads(again.read_text(encoding="utf-8"))["plans"], strict=True
    ):
        assert one | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.parametrize("overlong", ["drop", "truncate", "split"])
def test_it_packs_the_same_positions_with_every_strategy(overlong, tmp_path, capsys):
    lengths, path = tmp_path / "lengths.npy", tmp_path / "figures.json"
    np.save(lengths, np.array([0, 50, 100, 128, 129, 500], np.uint16))
    options = ["--sequence-length", "128", "--overlong", overlong, "--alignment", "2"]
    assert main(["compare", "--lengths", str(lengths), *options, "--json", str(path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    record = json.loads(path.read_text(encoding="utf-8"))
    positions = {"drop": 278, "truncate": 534, "split": 907}[overlong]
    assert record["num_positions"] == positions
    assert record["num_positions_lost"] == 907 - positions
    assert record["num_documents_dropped"] == (2 if overlong == "drop" else 0)
    assert record["num_documents_truncated"] == (2 if overlong == "truncate" else 0)
    for plan in record["plans"]:
        assert plan["num_padding_positions"] == plan["num_packs"] * 128 - positions
    assert "1 documents of under 2 tokens" in output
    assert (f"2 documents {overlong}" in output) == (overlong != "split")


def test_it_passes_options_on_and_takes_other_models(corpus, tmp_path, capsys):
    path = tmp_path / "figures.json"
    compare = ["compare", str(corpus.prefix), "--sequence-length", "128", "--json", str(path)]

    def figures(*options):
        assert main([*compare, *options]) == 0
        capsys.readouterr()
        return json.loads(path.read_text(encoding="utf-8"))

    usual = figures()
    shuffled = STRATEGIES.index("first_fit_shuffle")
    limited = figures("--max-documents-per-pack", "2", "--effort", "high")
    assert all(plan["documents_per_pack"] <= 2 for plan in limited["plans"])
    assert figures("--alignment", "64")["lower_bound"] > usual["lower_bound"]
    works = {
        figures("--seed", str(seed))["plans"][shuffled]["attention_work_without_masks"]
        for seed in range(4)
    }
    assert len(works) > 1
    assert figures("--model", "70b")["model"]["num_layers"] == 80
    model = figures("--layers", "2", "--hidden-size", "64", "--heads", "8", "--query-groups", "2")
    assert model["model"]["name"] == "2 layers of hidden size 64"
    assert model["plans"][0]["epoch_flops"] < usual["plans"][0]["epoch_flops"]
    hybrid = figures("--hybrid-layer-pattern", "M-M-*-|M-", "--mamba-state-dim", "64")
    assert hybrid["model"]["name"].startswith("8 layers (3 Mamba, 1 attention, 4 MLP) of hidden")
    assert hybrid["model"]["mamba_state_dim"] == 64


def test_the_overlong_document_that_it_names_is_that_of_the_corpus(tmp_path, capsys):
    prefix = write_corpus(tmp_path / "corpus", [1, 5, 1, 90, 120]).prefix
    message = fails(capsys, "compare", prefix, "--sequence-length", 64)
    assert "has 2 documents longer than the sequence length 64 (document 3, counted" in message
    assert "has 89 positions, the longest 119)" in message


def test_it_refuses_bad_input_by_name(corpus, tmp_path, capsys):
    compare = ["compare", corpus.prefix, "--sequence-length"]
    message = fails(capsys, *compare, 64)
    assert "documents longer than the sequence length 64 (document " in message
    assert "--overlong drop, truncate or split" in message
    assert "--sequence-length is 0; it must be at least 1" in fails(capsys, *compare, 0)
    assert "--sequence-length is 67108865" in fails(capsys, *compare, 2**26 + 1)
    assert "--global-batch-size is 0" in fails(capsys, *compare, 128, "--global-batch-size", 0)
    assert "alignment is 5" in fails(capsys, *compare, 128, "--alignment", 5)
    assert "seed is -1" in fails(capsys, *compare, 128, "--seed", -1)
    assert "which is a folder" in fails(capsys, *compare, 128, "--json", tmp_path)
    assert "multiple of its heads" in fails(capsys, *compare, 128, "--heads", 3)
    pattern = fails(capsys, *compare, 128, "--hybrid-layer-pattern", "M*/M")
    assert "pattern 'M*/M' has '/', but operations are counted for M (Mamba), G" in pattern
    assert "missing.idx does not exist" in fails(
        capsys, "compare", tmp_path / "missing", "--sequence-length", 128
    )
    lengths = tmp_path / "lengths.npy"
    compare = ["compare", "--lengths", lengths, "--sequence-length", 128]
    assert "lengths.npy does not exist" in fails(capsys, *compare)
    np.save(lengths, np.array([0, 0]))
    assert "no document of two or more tokens among 2" in fails(capsys, *compare)
    np.save(lengths, np.array([129, 200]))
    assert "every document of" in fails(capsys, *compare, "--overlong", "drop")


def test_it_takes_corpora_or_lengths(corpus, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--sequence-length", "128", "--json", str(path)]
    assert main(["compare", f"{corpus.prefix}:2", str(corpus.prefix), *options]) == 0
    capsys.readouterr()
    assert json.loads(path.read_text(encoding="utf-8"))["num_documents"] == 300
    assert "0 corpora and no --lengths file were given" in fails(capsys, "compare", *options)
    both = ["compare", corpus.prefix, "--lengths", tmp_path / "lengths.npy", *options]
    assert "1 corpus and a --lengths file were given" in fails(capsys, *both)


def test_it_refuses_corpora_of_different_tokenizers_as_pack_does(corpus, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", [20, 30, 40])
    for prefix, digest in ((corpus.prefix, "ab"), (other.prefix, "cd")):
        record = {"tokenizer": digest, "tokenizer_sha256": digest * 32}
        prefix.with_name(f"{prefix.name}_corpus.json").write_text(json.dumps(record))
    words = [str(corpus.prefix), str(other.prefix), "--sequence-length", "256"]
    message = fails(capsys, "compare", *words)
    assert message == fails(capsys, "pack", *words, "--output", tmp_path / "packs")
    assert "their token ids mean different texts" in message
    assert main(["compare", *words, "--allow-other-tokenizer"]) == 0
