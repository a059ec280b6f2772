# SPDX-License-Identifier: Apache-2.0
"""Prints packs, documents and corpora in readable form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from megatron_packing.corpus.content import count_trained_tokens
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.corpus.record import CorpusRecord, read_corpus_record
from megatron_packing.counted import counted
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.trained import share_read
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.places import row_starts, source_of
from megatron_packing.report.visible import visible
from megatron_packing.tokenizers.of_corpus import find_corpus_tokenizer
from megatron_packing.tokenizers.text_tokenizer import TextTokenizer, any_of

_TRAINED = "green"
_UNTRAINED = "dim"
_SPECIAL = "bold"
_QUANTILES = {"median": 0.5, "90%": 0.9, "99%": 0.99}

Tokenizers = Callable[[Path], TextTokenizer | None]
"""Function from a corpus prefix to its tokenizer; None to show token ids."""


def tokenizers_of(path_or_name: str | None, *, ids: bool = False) -> Tokenizers:
    """Return a function that loads the given tokenizer, or each corpus's own, once.

    Args:
        path_or_name: As ``find_tokenizer`` takes it.
        ids: Show token ids and load no tokenizer.
    """

    @cache
    def tokenizer_of(prefix: Path) -> TextTokenizer | None:
        source = None if ids else find_corpus_tokenizer(prefix, path_or_name)
        return None if source is None else source.open()

    return tokenizer_of


def show_corpus(corpus: Corpus | JoinedCorpus) -> dict[str, Any]:
    """Print a summary of a corpus, and return it for JSON.

    The loss masks are read completely, because the record may not match the files.

    Raises:
        InputError: A loss mask has a value other than 0 and 1, or its number of trained tokens
            differs from the record.
    """
    lengths = np.asarray(corpus.num_tokens)
    several = isinstance(corpus, JoinedCorpus)
    record = (None if several else read_corpus_record(corpus.prefix)) or CorpusRecord()
    num_tokens = int(lengths.sum(dtype=np.int64))
    with progress_bar("reading the loss masks", 1) as bar:
        on_read = share_read(corpus, tokens=False, progress=lambda share: bar.update(share, ""))
        trained = int(count_trained_tokens(corpus, on_read).sum())
    figures: dict[str, Any] = {
        "corpus": str(corpus.prefix),
        "num_documents": len(corpus),
        "num_tokens": num_tokens,
        "num_trained_tokens": trained,
        "has_loss_mask": corpus.has_loss_mask,
        "tokens_per_document": _describe_lengths(lengths),
        "record": {name: value for name, value in asdict(record).items() if value is not None},
    }
    mask = "" if corpus.has_loss_mask else "; there is no loss mask"
    lines = {
        "documents": f"{len(corpus):,}",
        "tokens": f"{num_tokens:,}",
        "trained": f"{trained:,} ({trained / max(num_tokens, 1):.1%}){mask}",
        "tokens per document": ", ".join(
            f"{name} {value:,}" for name, value in figures["tokens_per_document"].items()
        ),
        "tokenizer": record.tokenizer or "not recorded",
        "largest token": "" if record.largest_token is None else f"{record.largest_token:,}",
        "loss on": record.loss_on or "",
    }
    if several:
        del lines["tokenizer"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("corpus", str(corpus.prefix))
    for name, value in lines.items():
        if value:
            table.add_row(name, value)
    console.print(table)
    return figures


def _describe_lengths(lengths: NDArray[Any]) -> dict[str, int]:
    if len(lengths) == 0:
        return {}
    middle = np.quantile(lengths, list(_QUANTILES.values()), method="higher").tolist()
    named = dict(zip(_QUANTILES, map(int, middle), strict=True))
    return {"least": int(lengths.min()), **named, "most": int(lengths.max())}


def show_pack(
    index: PackIndex,
    corpus: Corpus | JoinedCorpus,
    pack: int,
    tokenizer_of: Tokenizers,
    max_tokens: int,
) -> dict[str, Any]:
    """Print a pack's documents in row order, trained tokens in green, others dim.

    If the index has several corpora, the corpus of each document is named.

    Returns:
        The pack with all its tokens, for JSON.
    """
    segments = index.segments(pack, corpus.num_tokens)
    filled = int(segments.lengths.sum())
    length = index.plan.sequence_length
    alignment = index.plan.alignment
    aligned = f", each in a multiple of {alignment:,}" if alignment > 1 else ""
    console.print(
        f"pack {pack} of {len(index):,}: {counted(len(segments.lengths), 'segment')}, "
        f"{filled:,} of {counted(length, 'position')} ({filled / length:.1%}){aligned}",
        style="bold",
    )
    row_positions, tail = row_starts(index, segments)
    shown = []
    for row_position, (document, start, positions) in zip(row_positions, segments, strict=True):
        source, number = source_of(corpus, document)
        tokenizer = tokenizer_of(source.prefix)
        whole = start == 0 and positions == int(corpus.num_tokens[document]) - 1
        part = "" if whole else f", its positions {start:,} to {start + positions - 1:,}"
        named = f" ({source.prefix} {number:,})" if source is not corpus else ""
        mask = corpus.loss_mask(document, start, start + positions + 1) != 0
        tokens = corpus.tokens(document, start, start + positions + 1)
        console.print(
            f"\nrow {row_position:,} to {row_position + positions - 1:,}: "
            f"document {document:,}{named}{part}, {counted(int(mask[1:].sum()), 'trained label')}",
            style="bold",
        )
        text = Text()
        for _, trained, ids in _runs(tokens[:max_tokens], mask):
            text.append_text(_styled(ids, trained, tokenizer))
        if len(tokens) > max_tokens:
            text.append(f" ... {counted(len(tokens) - max_tokens, 'more token')}")
        console.print(text)
        shown.append(
            {
                "document": document,
                "corpus": str(source.prefix),
                "document_of_corpus": number,
                "row_position": row_position,
                "first_position": start,
                "num_positions": positions,
                **_for_json(tokens, mask, tokenizer),
            }
        )
    if tail < length:
        console.print(f"\nrow {tail:,} to {length - 1:,}: tail, untrained", style="bold")
    return {"pack": pack, "num_packs": len(index), "num_positions": filled, "segments": shown}


def show_document(
    corpus: Corpus | JoinedCorpus, document: int, tokenizer_of: Tokenizers, max_tokens: int
) -> dict[str, Any]:
    """Print a document turn by turn: token range, whether it is trained, and the text.

    Returns:
        The document with all its tokens, for JSON.
    """
    source, number = source_of(corpus, document)
    tokenizer = tokenizer_of(source.prefix)
    tokens, mask = corpus.tokens(document), corpus.loss_mask(document) != 0
    named = f" ({source.prefix} {number:,})" if source is not corpus else ""
    console.print(
        f"document {document:,} of {len(corpus):,}{named}: {counted(len(tokens), 'token')}, "
        f"{int(mask.sum()):,} of them trained",
        style="bold",
    )
    table = Table(box=None, show_header=True, padding=(0, 2, 0, 0))
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("trained", no_wrap=True)
    table.add_column("text" if tokenizer else "ids", overflow="fold")
    ends = _end_tokens(tokens, mask, tokenizer)
    for first, trained, ids in _runs(tokens[:max_tokens], mask, ends):
        end = first + len(ids) - 1
        table.add_row(
            f"{first:,} to {end:,}" if end > first else f"{first:,}",
            "yes" if trained else "no",
            _styled(ids, trained, tokenizer),
        )
    console.print(table, soft_wrap=False)
    if len(tokens) > max_tokens:
        more = counted(len(tokens) - max_tokens, "more token")
        console.print(f"{more}: --max-tokens {len(tokens)}")
    return {
        "document": document,
        "corpus": str(source.prefix),
        "document_of_corpus": number,
        **_for_json(tokens, mask, tokenizer),
    }


def _for_json(
    tokens: NDArray[Any], mask: NDArray[np.bool_], tokenizer: TextTokenizer | None
) -> dict[str, Any]:
    ids = tokens.tolist()
    text = None if tokenizer is None else decode(ids, tokenizer)
    return {"tokens": ids, "trained": mask.astype(int).tolist(), "text": text}


def decode(ids: list[int], tokenizer: TextTokenizer) -> str:
    """Decode tokens; ids that the tokenizer does not have become ``<token 123>``."""
    if all(0 <= token < tokenizer.vocabulary_size for token in ids):
        return tokenizer.decode(ids)
    parts = [
        tokenizer.decode([token]) if 0 <= token < tokenizer.vocabulary_size else f"<token {token}>"
        for token in ids
    ]
    return "".join(parts)


def _runs(
    tokens: NDArray[Any], mask: NDArray[Any], ends: frozenset[int] = frozenset()
) -> list[tuple[int, bool, list[int]]]:
    """Split tokens into runs of trained or untrained tokens, and after the tokens in ``ends``.

    Returns:
        For each run its first position, whether it is trained, and its token ids.
    """
    runs: list[tuple[int, bool, list[int]]] = []
    ids: list[int] = []
    pairs = list(zip(tokens.tolist(), mask.tolist(), strict=False))
    for number, (token, trained) in enumerate(pairs):
        ids.append(token)
        is_last = number + 1 == len(pairs)
        if is_last or bool(pairs[number + 1][1]) != bool(trained) or token in ends:
            runs.append((number + 1 - len(ids), bool(trained), ids))
            ids = []
    return runs


def _end_tokens(
    tokens: NDArray[Any], mask: NDArray[Any], tokenizer: TextTokenizer | None
) -> frozenset[int]:
    """Return the special tokens that end trained turns; they end other turns too."""
    if tokenizer is None:
        return frozenset()
    special = {tokenizer.token_of(name) for name in tokenizer.special}
    last = np.flatnonzero(np.diff(mask.astype(np.int8), append=0) < 0)
    return frozenset(set(tokens[last].tolist()) & special)


def _styled(ids: list[int], trained: bool, tokenizer: TextTokenizer | None) -> Text:
    text = decode(ids, tokenizer) if tokenizer else " ".join(map(str, ids)) + " "
    styled = Text(visible(text), style=_TRAINED if trained else _UNTRAINED)
    if tokenizer is not None:
        styled.highlight_regex(any_of(tokenizer.special), _SPECIAL)
    return styled
