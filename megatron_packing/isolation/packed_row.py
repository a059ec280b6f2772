# SPDX-License-Identifier: Apache-2.0
"""The rows that a Hugging Face model is checked with, and how they are told to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from megatron_packing.isolation.result import RowForm

LENGTHS = (13, 1, 19, 7, 21)
"""Of the documents. They sum to a prime, so that no width of a small model equals the row's length;
they exceed its windows and chunks, and one has a single token."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Documents one after the other."""

    tokens: Tensor
    """int64, ``(positions,)``."""
    lengths: tuple[int, ...]

    @classmethod
    def random(cls, num_tokens: int) -> PackedRow:
        """Draw the tokens of a row, always the same ones, from the first ``num_tokens``."""
        generator = torch.Generator().manual_seed(1)
        return cls(torch.randint(0, num_tokens, (sum(LENGTHS),), generator=generator), LENGTHS)

    @property
    def spans(self) -> list[slice]:
        """The positions of each document."""
        offsets = accumulate(self.lengths, initial=0)
        return [slice(start, stop) for start, stop in pairwise(offsets)]

    @property
    def segments(self) -> Tensor:
        """int64, ``(positions,)``: the document of each position."""
        return torch.repeat_interleave(
            torch.arange(len(self.lengths)), torch.tensor(self.lengths, dtype=torch.int64)
        )

    def with_others(self, segments: Sequence[int], num_tokens: int) -> PackedRow:
        """Give each position of some documents another token."""
        tokens = self.tokens.clone()
        generator = torch.Generator().manual_seed(2)
        steps = torch.randint(1, num_tokens, tokens.shape, generator=generator)
        for segment in segments:
            at = self.spans[segment]
            tokens[at] = (tokens[at] + steps[at]) % num_tokens
        return PackedRow(tokens, self.lengths)

    def alone(self, segment: int) -> PackedRow:
        """Return a row with one of the documents."""
        return PackedRow(self.tokens[self.spans[segment]], (self.lengths[segment],))

    def inputs(self, form: RowForm, device: torch.device) -> dict[str, Any]:
        """Return what the model is told: a batch of one row."""
        positions = torch.cat([torch.arange(length) for length in self.lengths])
        told: dict[str, Any] = {
            "input_ids": self.tokens[None].to(device),
            "position_ids": positions[None].to(device),
        }
        if form == "varlen":
            offsets = list(accumulate(self.lengths, initial=0))
            cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=device)
            told |= {
                "cu_seq_lens_q": cu_seqlens,
                "cu_seq_lens_k": cu_seqlens,
                "max_length_q": max(self.lengths),
                "max_length_k": max(self.lengths),
                "seq_idx": self.segments[None].int().to(device),
            }
        return told

    def losses(self, logits: Tensor) -> Tensor:
        """Return the loss of each position, 0 at the last one of each document.

        Args:
            logits: ``(positions, tokens)``.
        """
        labels = self.tokens.roll(-1).to(logits.device)
        losses = cross_entropy(logits.float(), labels, reduction="none")
        is_last = torch.zeros_like(losses)
        for at in self.spans:
            is_last[at.stop - 1] = 1
        return losses * (1 - is_last)
