# SPDX-License-Identifier: Apache-2.0
"""Converts packs to the rows that NeMo 2.x and Megatron-Bridge store.

A stored row holds one pack:

    input_ids      the concatenated tokens of its segments. A segment of n positions has n + 1
                   tokens, padded with the end token up to the alignment
    loss_mask      as many values, 0 or 1: whether the token *after* this one is trained; the last
                   value of each segment is ignored
    seq_start_id   the start of each segment in both arrays

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

LARGEST_TOKEN = 2**31 - 1  # the readers use 32-bit arrays
COLUMNS = ("input_ids", "loss_mask", "seq_start_id")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One pack; one-dimensional arrays of integers."""

    input_ids: NDArray[np.integer]
    loss_mask: NDArray[np.integer]
    seq_start_id: NDArray[np.integer]

    @property
    def segments(self) -> list[slice]:
        """The slice of each segment."""
        ends = [*self.seq_start_id[1:].tolist(), len(self.input_ids)]
        return [slice(*pair) for pair in zip(self.seq_start_id.tolist(), ends, strict=True)]


@dataclass(slots=True)
class StoredFigures:
    """Counts of what was stored."""

    num_packs: int = 0
    num_segments: int = 0
    num_trained: int = 0
    """Trained labels."""
    num_after_end: int = 0
    """Trained labels after an end token. The readers do not train them, because they treat every
    end token as padding (Megatron-Bridge#5213)."""
    num_with_end: int = 0
    """Segments that contain an end token, including pads."""
    num_with_inner_end: int = 0
    """Segments with an end token before their last tokens. NeMo 2.x treats the first end token as
    the end of the segment and attends to nothing after it (``collate_fn``,
    ``seqlen_unpadded``)."""
    longest_segment: int = 0
    """Positions, including pads."""
    most_segments: int = 0
    shortest_pack: int = field(default=2**63 - 1)
    """Positions, including pads but not the tail."""
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
        for segment in row.segments:
            here = is_end[segment]
            if here.any():
                self.num_with_end += 1
                self.num_with_inner_end += not here[int(here.argmax()) :].all()
        self.longest_segment = max(self.longest_segment, int(lengths.max()))
        self.most_segments = max(self.most_segments, len(lengths))
        self.shortest_pack = min(self.shortest_pack, int(lengths.sum()))
        self.num_positions += int(lengths.sum())

    def metadata(self, sequence_length: int) -> list[dict[str, Any]]:
        """Return the content of the metadata file that the readers expect.

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
    """Yield the packs of an index in order.

    Args:
        index: A pack index.
        corpus: The corpus that it was made from.
        end_token: The tokenizer's end token, which the readers expect as padding.

    Raises:
        InputError: A document has a token that is not an integer from 0 to 2**31 - 1.
    """
    alignment, num_tokens = index.plan.alignment, corpus.num_tokens
    for pack in range(len(index)):
        segments = list(index.segments(pack, num_tokens))
        # The readers need at least one segment: an empty pack gets one of pads.
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
            # Mask values other than 0 and 1 would scale the loss or flip its sign.
            trained = corpus.loss_mask(document, first + 1, stop) != 0
            loss_mask[start : start + length] = trained
        yield StoredRow(input_ids, loss_mask, starts.astype(np.int32))


def _check_tokens(tokens: NDArray[Any], corpus: TokenDocuments, document: int) -> None:
    """Refuse values that are not valid 32-bit token ids."""
    if tokens.dtype.kind not in "iu":
        raise InputError(
            f"{corpus.prefix} holds numbers of type {tokens.dtype}, which are not token ids; "
            f"give a corpus of integers"
        )
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most > LARGEST_TOKEN:
        wrong = least if least < 0 else most
        raise InputError(
            f"document {document} of {corpus.prefix} holds {wrong}, which is not a token from 0 to "
            f"{LARGEST_TOKEN}; tokenize the corpus again"
        )
