# SPDX-License-Identifier: Apache-2.0
"""The endless stream of rows that a pack index gives: row i is a function of (index, seed, i)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.index.pack_index import PackIndex, Segments
from megatron_packing.planning.strategies import STRATEGY_TABLE
from megatron_packing.stream.order import pack_at
from megatron_packing.thd.layout import Attention, Placement, PositionIds, lay_out, place
from megatron_packing.thd.loss_weights import Normaliser, weigh


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """The rows of an index over as many epochs as are asked for."""

    index: PackIndex
    corpus: TokenDocuments
    """What the index was made from."""
    seed: int
    new_order_each_epoch: bool
    """For training: every epoch has its own order of packs and, after the first, other neighbors.
    Otherwise packs come in the order of the index, again and again: any run of as many samples as
    there are packs holds each once, wherever an evaluation starts."""
    attention: Attention = "document"
    position_ids: PositionIds = "restart"
    normaliser: Normaliser = "token"
    pad_token: int = 0
    """Stands at pads and in tails, untrained: any token of the vocabulary will do."""

    @property
    def cu_seqlens_width(self) -> int:
        """Entries of every row's ``cu_seqlens``."""
        return self.index.figures.max_documents_per_pack + 2

    def segments(self, sample: int) -> Segments:
        """The segments of row ``sample``."""
        num_packs, num_tokens = len(self.index), self.corpus.num_tokens
        if not self.new_order_each_epoch:
            return self.index.segments(sample % num_packs, num_tokens)
        pack, epoch = pack_at(sample, num_packs, self.seed), sample // num_packs
        segments = self.index.segments(pack, num_tokens, epoch=epoch, seed=self.seed)
        corpus = self.corpus_of(sample)
        return segments if corpus is self.corpus else segments.within(corpus.num_tokens)

    def corpus_of(self, sample: int) -> TokenDocuments:
        """What the documents of row ``sample`` are read from: the corpus in that row's epoch."""
        if not self.new_order_each_epoch:
            return self.corpus
        return self.corpus.at_epoch(sample // len(self.index))

    def place(self, segments: Segments) -> Placement:
        """Where segments stand in their row."""
        return place(
            segments.lengths,
            self.index.plan.sequence_length,
            self.cu_seqlens_width,
            alignment=self.index.plan.alignment,
            attention=self.attention,
        )

    def row(
        self, sample: int, *, with_tokens: bool = True, with_padding_mask: bool = False
    ) -> dict[str, NDArray[np.generic]]:
        """Lay row ``sample`` out.

        Returns:
            ``cu_seqlens`` (int32, the same width for every row), ``real_lengths`` (int32, one
            less: without padding) and ``max_seqlen`` (int32, ()); with tokens also ``tokens``,
            ``labels``, ``position_ids`` (int64) and ``loss_mask`` (float32: the weight of each
            label), each ``(sequence_length,)``, and ``denominator`` (int64, ()), for which see
            ``thd.loss_weights``; and, if asked for, ``padding_mask`` (bool, ``(sequence_length,)``)
            and ``denominator``, by which routers of experts weigh what they balance.
        """
        segments = self.segments(sample)
        placement = self.place(segments)
        arrays: dict[str, NDArray[np.generic]] = {
            "cu_seqlens": placement.cu_seqlens,
            "real_lengths": placement.real_lengths,
            "max_seqlen": np.array(placement.max_seqlen, np.int32),
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
        """What attention computes for row ``sample``, without reading its tokens.

        Returns:
            Shape ``(num_stretches,)``: positions between neighbors of ``cu_seqlens``, pads and
            tail among them; together ``sequence_length``.
        """
        lengths = np.diff(self.place(self.segments(sample)).cu_seqlens).astype(np.int64)
        return lengths[lengths > 0]
