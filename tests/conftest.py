# SPDX-License-Identifier: Apache-2.0
"""What several rooms' tests start from: small corpora, a real tokenizer, the example scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from megatron_packing import Corpus
from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from tests.limits import TIME_LIMIT

settings.register_profile("all", deadline=None)  # machines pause; the suite has a limit
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("sanitized", deadline=None, max_examples=10)  # many times slower

# Importing Megatron imports torch's compiler otherwise, a third of its time; no test compiles.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer examples where slow tests are left out."""
    profile = "quick" if "not slow" in config.option.markexpr else "all"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", profile))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test names that differ from process to process, which share the tests by name."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} has an address in its name; give it an id")


def write_corpus(
    prefix: Path,
    num_tokens: Sequence[int],
    *,
    seed: int = 0,
    vocabulary: int = 256,
    with_loss_mask: bool = True,
) -> Corpus:
    """Write random documents, about half of their tokens trained, and open them."""
    random = np.random.default_rng(seed)
    lengths = np.asarray(num_tokens, np.int64)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedDatasetWriter(prefix, np.dtype(np.int32)) as tokens:
        tokens.add(random.integers(0, vocabulary, lengths.sum()), lengths)
    if with_loss_mask:
        with IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as masks:
            masks.add(random.integers(0, 2, lengths.sum()), lengths)
    return Corpus(prefix)


def chat_like_lengths(count: int, *, longest: int, seed: int = 0) -> np.ndarray:
    """Token counts with a heavy tail, from 2 to ``longest``."""
    sampled = np.random.default_rng(seed).lognormal(np.log(longest / 8), 1.0, count)
    return np.clip(sampled.astype(np.int64), 2, longest)


@pytest.fixture(scope="session")
def chitchat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conversations.jsonl (real, 4,008 of them) and tokenizer/ (real)."""
    folder = tmp_path_factory.mktemp("chitchat")
    script = EXAMPLES / "chitchat.py"
    subprocess.run([sys.executable, script, folder], check=True, timeout=TIME_LIMIT)
    return folder


@pytest.fixture(scope="session")
def few_conversations(chitchat: Path) -> Path:
    """The first 200 of the real conversations."""
    return _first_conversations(chitchat, 200, "few.jsonl")


@pytest.fixture(scope="session")
def some_conversations(chitchat: Path) -> Path:
    """The first 600 of the real conversations, which are several batches."""
    return _first_conversations(chitchat, 600, "some.jsonl")


def _first_conversations(chitchat: Path, count: int, name: str) -> Path:
    path = chitchat / name
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write records as JSON Lines; texts go in as they are."""

    def write(*records: object, name: str = "input.jsonl") -> Path:
        path = tmp_path / name
        lines = [
            record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)
            for record in records
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
