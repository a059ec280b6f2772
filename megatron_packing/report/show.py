"""One pack, readably."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.corpus.tokenize import corpus_record_path
from megatron_packing.corpus.tokenizer import load_tokenizer
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.report.console import console

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TRAINED = "green"
_UNTRAINED = "dim"


def find_tokenizer(prefix: Path, path_or_name: str | None) -> PreTrainedTokenizerFast | None:
    """Load the tokenizer named, or the one a corpus was made with; None where neither is known."""
    if path_or_name is not None:
        return load_tokenizer(path_or_name)
    record = corpus_record_path(prefix)
    if not record.exists():
        return None
    return load_tokenizer(json.loads(record.read_text(encoding="utf-8"))["tokenizer"])


def show_pack(
    index: PackIndex,
    corpus: TokenDocuments,
    pack: int,
    tokenizer: PreTrainedTokenizerFast | None,
    max_tokens: int,
) -> None:
    """Print a pack's documents in row order, trained tokens in green, others dim."""
    segments = index.segments(pack, corpus.num_tokens)
    filled = int(segments.lengths.sum())
    length = index.plan.sequence_length
    console.print(
        f"pack {pack} of {len(index):,}: {len(segments.lengths)} segments, "
        f"{filled:,} of {length:,} positions ({filled / length:.1%})",
        style="bold",
    )
    row = 0
    for document, start, positions in segments:
        whole = start == 0 and positions == int(corpus.num_tokens[document]) - 1
        part = "" if whole else f", its positions {start:,} to {start + positions - 1:,}"
        mask = corpus.loss_mask(document, start, start + positions + 1)
        console.print(
            f"\nrow {row:,} to {row + positions - 1:,}: document {document:,}{part}, "
            f"{int(mask[1:].sum()):,} trained labels",
            style="bold",
        )
        tokens = corpus.tokens(document, start, start + positions + 1)
        text = Text()
        shown = zip(tokens[:max_tokens].tolist(), mask[:max_tokens].tolist(), strict=True)
        for run, trained in _runs(shown):
            words = tokenizer.decode(run) if tokenizer else " ".join(map(str, run)) + " "
            text.append(words, style=_TRAINED if trained else _UNTRAINED)
        if len(tokens) > max_tokens:
            text.append(f" ... {len(tokens) - max_tokens:,} more tokens")
        console.print(text)
        row += positions
    if filled < length:
        console.print(f"\nrow {filled:,} to {length - 1:,}: tail, untrained", style="bold")


def _runs(tokens: zip[tuple[int, int]]) -> list[tuple[list[int], int]]:
    """Neighbours that are alike, trained or not, put together so that they decode as text."""
    runs: list[tuple[list[int], int]] = []
    for token, trained in tokens:
        if not runs or runs[-1][1] != trained:
            runs.append(([], trained))
        runs[-1][0].append(token)
    return runs
