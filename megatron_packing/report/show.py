"""Packs and documents, readably."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from megatron_packing.corpus.corpus import TokenDocuments, corpus_record_path
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.prepare.text_tokenizer import TextTokenizer, any_of
from megatron_packing.prepare.tokenizer import find_tokenizer
from megatron_packing.report.console import console

_TRAINED = "green"
_UNTRAINED = "dim"
_SPECIAL = "bold"


def tokenizer_of(prefix: Path, path_or_name: str | None) -> TextTokenizer | None:
    """Load the tokenizer named, or the one a corpus was made with; None where neither is known.

    Raises:
        InputError: It cannot be loaded, or the corpus was made with another.
    """
    path = corpus_record_path(prefix)
    record: dict[str, Any] = {}
    if path.exists():
        try:
            record = dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); give --tokenizer") from error
    name = path_or_name or record.get("tokenizer")
    if name is None:
        return None
    source = find_tokenizer(str(name))
    if record.get("tokenizer_sha256", source.sha256) != source.sha256:
        raise InputError(
            f"the tokenizer {name!r} is not the one that {prefix} was made with, so its tokens "
            f"would read wrongly; give that one with --tokenizer"
        )
    return source.open()


def show_pack(
    index: PackIndex,
    corpus: TokenDocuments,
    pack: int,
    tokenizer: TextTokenizer | None,
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
        for _, trained, words in _runs(tokens[:max_tokens], mask):
            text.append_text(_styled(words, trained, tokenizer))
        if len(tokens) > max_tokens:
            text.append(f" ... {len(tokens) - max_tokens:,} more tokens")
        console.print(text)
        row += positions
    if filled < length:
        console.print(f"\nrow {filled:,} to {length - 1:,}: tail, untrained", style="bold")


def show_document(
    corpus: TokenDocuments, document: int, tokenizer: TextTokenizer | None, max_tokens: int
) -> None:
    """Print a document turn by turn: which tokens, whether they are trained, and their text."""
    tokens, mask = corpus.tokens(document), corpus.loss_mask(document)
    console.print(
        f"document {document:,} of {len(corpus):,}: {len(tokens):,} tokens, "
        f"{int(mask.sum()):,} of them trained",
        style="bold",
    )
    table = Table(box=None, show_header=True, padding=(0, 2, 0, 0))
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("trained", no_wrap=True)
    table.add_column("text", overflow="fold")
    ends = _end_tokens(tokens, mask, tokenizer)
    for first, trained, words in _runs(tokens[:max_tokens], mask, ends):
        end = first + len(words) - 1
        table.add_row(
            f"{first:,} to {end:,}" if end > first else f"{first:,}",
            "yes" if trained else "no",
            _styled(words, trained, tokenizer),
        )
    console.print(table, soft_wrap=False)
    if len(tokens) > max_tokens:
        console.print(f"{len(tokens) - max_tokens:,} more tokens: --max-tokens {len(tokens)}")


def _runs(
    tokens: NDArray[Any], mask: NDArray[np.uint8], ends: frozenset[int] = frozenset()
) -> list[tuple[int, bool, list[int]]]:
    """Neighbours that are alike, trained or not, cut after ``ends``: first, whether, and all."""
    runs: list[tuple[int, bool, list[int]]] = []
    words: list[int] = []
    pairs = list(zip(tokens.tolist(), mask.tolist(), strict=False))
    for number, (token, trained) in enumerate(pairs):
        words.append(token)
        is_last = number + 1 == len(pairs)
        if is_last or bool(pairs[number + 1][1]) != bool(trained) or token in ends:
            runs.append((number + 1 - len(words), bool(trained), words))
            words = []
    return runs


def _end_tokens(
    tokens: NDArray[Any], mask: NDArray[np.uint8], tokenizer: TextTokenizer | None
) -> frozenset[int]:
    """The special tokens that end trained turns; other turns end with them too."""
    if tokenizer is None:
        return frozenset()
    special = {tokenizer.token_of(name) for name in tokenizer.special}
    last = np.flatnonzero(np.diff(mask.astype(np.int8), append=0) < 0)
    return frozenset(set(tokens[last].tolist()) & special)


def _styled(words: list[int], trained: bool, tokenizer: TextTokenizer | None) -> Text:
    text = tokenizer.decode(words) if tokenizer else " ".join(map(str, words)) + " "
    styled = Text(text, style=_TRAINED if trained else _UNTRAINED)
    if tokenizer is not None:
        styled.highlight_regex(any_of(tokenizer.special), _SPECIAL)
    return styled
