# SPDX-License-Identifier: Apache-2.0
"""Packs as NeMo 2.x and Megatron-Bridge store them.

A stored row is, for one pack,

    input_ids      the tokens of its segments one after another. A segment of n positions has n + 1
                   tokens, pads of the end token after them up to the alignment
    loss_mask      as many numbers, 0 or 1: whether the token *after* this one is trained; the last
                   of each segment counts for nothing
    seq_start_id   where each segment starts in the two

``GPTSFTPackedDataset`` reads them (Bridge: ``data/packing/gpt_sft.py``, until 0.5
``data/datasets/sft.py``; NeMo: ``nemo/collections/llm/gpt/data/core.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex

LARGEST_TOKEN = 2**31 - 1  # the readers' arrays have 32 bits
COLUMNS = ("input_ids", "loss_mask", "seq_start_id")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One pack; one-dimensional arrays of integers."""

    input_ids: NDArray[np.integer]
    loss_mask: NDArray[np.integer]
    seq_start_id: NDArray[np.integer]

    @property
    def segments(self) -> list[slice]:
        """The place of each segment."""
        ends = [*self.seq_start_id[1:].tolist(), len(self.input_ids)]
        return [slice(*pair) for pair in zip(self.seq_start_id.tolist(), ends, strict=True)]


@dataclass(slots=True)
class StoredFigures:
    """What was stored."""

    num_packs: int = 0
    num_segments: int = 0
    num_trained: int = 0
    """Labels that are trained."""
    num_after_end: int = 0
    """Of those, labels after an end token, which the readers do not train: they take every end
    token for padding (Megatron-Bridge#5213)."""
    num_with_end: int = 0
    """Segments that hold an end token, as pads too."""
    num_with_inner_end: int = 0
    """Segments with an end token before their last tokens. NeMo 2.x takes the first for the
    segment's end and attends to nothing after it (``collate_fn``, ``seqlen_unpadded``)."""
    longest_segment: int = 0
    """Positions, with pads."""
    most_segments: int = 0
    shortest_pack: int = field(default=2**63 - 1)
    """Positions, with pads, without the tail."""
    num_positions: int = 0

    def add(self, row: StoredRow, end_token: int) -> None:
        """Count a row."""
        lengths = np.diff(row.seq_start_id, append=len(row.input_ids)) - 1
        last = row.seq_start_id[1:] - 1
        trained = row.loss_mask[:-1] != 0
        trained[last] = False
        self.num_packs += 1
        self.num_segments += len(lengths)
        self.num_trained += int(np.count_nonzero(trained))
        is_end = row.input_ids == end_token
        self.num_after_end += int(np.count_nonzero(trained & is_end[:-1]))
        for place in row.segments:
            here = is_end[place]
            if here.any():
                self.num_with_end += 1
                self.num_with_inner_end += not here[int(here.argmax()) :].all()
        self.longest_segment = max(self.longest_segment, int(lengths.max()))
        self.most_segments = max(self.most_segments, len(lengths))
        self.shortest_pack = min(self.shortest_pack, int(lengths.sum()))
        self.num_positions += int(lengths.sum())

    def metadata(self, sequence_length: int) -> list[dict[str, Any]]:
        """What the readers take from the metadata file, in its form.

        The names are Bridge's (``create_packing_strategy``, ``data/packing/algorithms.py``).
        """
        share = self.num_positions / (self.num_packs * sequence_length)
        return [
            {
                "dataset_max_seqlen": self.longest_segment,
                "max_samples_per_bin": self.most_segments,
                "packing_factor": round(self.num_segments / self.num_packs, 2),
                "packing_efficiency": round(100 * share, 2),
                "pack_size": sequence_length,
                "min_packed_seqlen": self.shortest_pack,
            }
        ]


def rows_of(index: PackIndex, corpus: TokenDocuments, end_token: int) -> Iterator[StoredRow]:
    """The packs of an index in its order, one after another.

    Args:
        index: A pack index.
        corpus: What it was made from.
        end_token: Of the tokenizer. It stands at pads, where the readers look for it.

    Raises:
        InputError: A document holds something else than tokens from 0 to 2**31 - 1.
    """
    alignment, num_tokens = index.plan.alignment, corpus.num_tokens
    for pack in range(len(index)):
        segments = list(index.segments(pack, num_tokens))
        # Readers cannot do without a segment: a pack without any gets one of pads.
        lengths = np.array([length for _, _, length in segments] or [1], np.int64)
        stored = -(-lengths // alignment) * alignment + 1
        starts = np.cumsum(stored) - stored
        input_ids = np.full(int(stored.sum()), end_token, np.int32)
        loss_mask = np.zeros(len(input_ids), np.int8)
        for (document, first, length), start in zip(segments, starts.tolist(), strict=False):
            stop = first + length + 1
            tokens = corpus.tokens(document, first, stop)
            _check_tokens(tokens, corpus, document)
            input_ids[start : start + length + 1] = tokens
            # A mask of other values than 0 and 1 would weigh the loss, or turn its sign.
            trained = corpus.loss_mask(document, first + 1, stop) != 0
            loss_mask[start : start + length] = trained
        yield StoredRow(input_ids, loss_mask, starts.astype(np.int32))


def _check_tokens(tokens: NDArray[Any], corpus: TokenDocuments, document: int) -> None:
    """Refuse what would become another token in 32 bits."""
    if tokens.dtype.kind not in "iu":
        raise InputError(
            f"{corpus.prefix} holds numbers of {tokens.dtype}, which are no tokens; give a corpus "
            f"of integers"
        )
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most > LARGEST_TOKEN:
        wrong = least if least < 0 else most
        raise InputError(
            f"document {document} of {corpus.prefix} holds {wrong}, which is not a token from 0 to "
            f"{LARGEST_TOKEN}; tokenize the corpus again"
        )
