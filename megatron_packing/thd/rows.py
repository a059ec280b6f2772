# SPDX-License-Identifier: Apache-2.0
"""Serves the endless stream of rows of a pack index: row i depends only on (index, seed, i)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex, Segments
from megatron_packing.planning.strategies import STRATEGY_TABLE
from megatron_packing.stream.even_order import EvenOrder
from megatron_packing.stream.order import pack_at
from megatron_packing.thd.layout import Attention, Placement, PositionIds, lay_out, place
from megatron_packing.thd.loss_weights import Normaliser, weigh
from megatron_packing.thd.row_shape import RowShape


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """The rows of an index, over any number of epochs."""

    index: PackIndex
    corpus: TokenDocuments
    """The corpus that the index was made from."""
    seed: int
    new_order_each_epoch: bool
    """For training: every epoch has its own order of packs and, after the first, other neighbors in
    each pack. Otherwise the order of the index repeats, so any ``len(index)`` consecutive samples
    contain each pack once, wherever an evaluation starts."""
    order: EvenOrder | None = None
    """The order of packs for training; None: a random one."""
    attention: Attention = "document"
    position_ids: PositionIds = "restart"
    normaliser: Normaliser = "token"
    pad_token: int = 0
    """The token id of pads and tails, which are not trained: any id of the vocabulary works."""
    run_shape: RowShape | None = None
    """The shape of all rows that a run reads, from all its indexes. None: this is its only one."""
    shape: RowShape = field(init=False)
    """The shape of every row."""

    def __post_init__(self) -> None:
        shape = self.run_shape or RowShape.of([self.index], self.attention)
        object.__setattr__(self, "shape", shape)

    def segments(self, sample: int) -> Segments:
        """Return the segments of row ``sample``."""
        num_packs, num_tokens = len(self.index), self.corpus.num_tokens
        if not self.new_order_each_epoch:
            return self.index.segments(sample % num_packs, num_tokens)
        pack = self.order.pack_at(sample) if self.order else pack_at(sample, num_packs, self.seed)
        epoch = sample // num_packs
        segments = self.index.segments(pack, num_tokens, epoch=epoch, seed=self.seed)
        corpus = self.corpus_of(sample)
        return segments if corpus is self.corpus else segments.within(corpus.num_tokens)

    def corpus_of(self, sample: int) -> TokenDocuments:
        """Return the corpus as it is in the epoch of row ``sample``."""
        if not self.new_order_each_epoch:
            return self.corpus
        return self.corpus.at_epoch(sample // len(self.index))

    def place(self, segments: Segments) -> Placement:
        """Return the positions of segments in their row.

        Raises:
            InputError: A span is longer than the shape of the run allows.
        """
        placement = place(
            segments.lengths,
            self.index.plan.sequence_length,
            self.shape.width,
            alignment=self.index.plan.alignment,
            attention=self.attention,
        )
        longest = int(np.diff(placement.cu_seqlens).max())
        if longest > self.shape.max_seqlen:
            raise InputError(
                f"a row of {self.index.path} has a document of {longest:,} positions, but rows of "
                f"this run have none over {self.shape.max_seqlen:,}: check the index with "
                f"megatron-packing verify, and give RowShape.of() all indexes of the run"
            )
        return placement

    def row(
        self, sample: int, *, with_tokens: bool = True, with_padding_mask: bool = False
    ) -> dict[str, NDArray[np.generic]]:
        """Return row ``sample``.

        Returns:
            Always ``cu_seqlens`` (int32, the same width for every row), ``real_lengths`` (int32,
            one entry fewer: lengths without padding) and ``max_seqlen`` (int32, (), the same for
            every row; see ``RowShape``). With tokens, also ``tokens``, ``labels``,
            ``position_ids`` (int64) and ``loss_mask`` (float32: the weight of each label), each
            ``(sequence_length,)``, and ``denominator`` (int64, ()); see ``thd.loss_weights``. With
            a padding mask, also ``padding_mask`` (bool, ``(sequence_length,)``) and
            ``denominator``, which weighs the balancing losses of MoE routers.
        """
        segments = self.segments(sample)
        placement = self.place(segments)
        arrays: dict[str, NDArray[np.generic]] = {
            "cu_seqlens": placement.cu_seqlens,
            "real_lengths": placement.real_lengths,
            "max_seqlen": np.array(self.shape.max_seqlen, np.int32),
        }
        if with_padding_mask:
            arrays["padding_mask"] = placement.padding_mask()
        if with_tokens or with_padding_mask:
            corpus = self.corpus_of(sample)
            layout = lay_out(corpus, segments, placement, self.pad_token)
            plan = self.index.plan
            weights, denominator = weigh(
                layout.loss_mask,
                corpus,
                segments,
                placement,
                self.normaliser,
                parts_are_elsewhere=(
                    plan.overlong == "split" or STRATEGY_TABLE[plan.strategy].cuts_documents
                ),
            )
            arrays["denominator"] = np.array(denominator, np.int64)
        if with_tokens:
            arrays |= {
                "tokens": layout.tokens,
                "labels": layout.labels,
                "position_ids": placement.position_ids(self.position_ids),
                "loss_mask": weights,
            }
        return arrays

    def segment_lengths(self, sample: int) -> NDArray[np.int64]:
        """Return the lengths of row ``sample``'s attention spans, without reading its tokens.

        Returns:
            Shape ``(num_spans,)``: the lengths between entries of ``cu_seqlens``, including pads
            and the tail; they sum to ``sequence_length``.
        """
        lengths = np.diff(self.place(self.segments(sample)).cu_seqlens).astype(np.int64)
        return lengths[lengths > 0]
