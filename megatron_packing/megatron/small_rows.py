# SPDX-License-Identifier: Apache-2.0
"""Draws the rows that a small model is checked with."""

from __future__ import annotations

import numpy as np
import torch

from megatron_packing.megatron.isolation_rows import Sample
from megatron_packing.thd.layout import place

POSITIONS = 128
"""Of a row: what all recipes of FP8 can cut."""
_DOCUMENTS = 5
_LEAST_PADDING = 5


def random_sample(seed: int, vocabulary: int, *, restarts: bool, with_padding_mask: bool) -> Sample:
    """Return a row of random documents, one of them a single token, as ``PackedDataset`` does.

    Args:
        seed: Another seed gives other lengths and tokens.
        vocabulary: Tokens that the model has.
        restarts: Whether position ids restart in each document.
        with_padding_mask: Whether the row has a padding mask, as models with experts need.
    """
    generator = np.random.default_rng(seed)
    room = POSITIONS - _LEAST_PADDING - _DOCUMENTS - 1
    cuts = np.sort(generator.choice(np.arange(1, room), _DOCUMENTS - 1, replace=False))
    lengths = np.diff(cuts, prepend=0) + 1
    lengths = np.insert(lengths, generator.integers(1, _DOCUMENTS - 1), 1)
    placement = place(lengths, POSITIONS, len(lengths) + 3)
    tokens = generator.integers(0, vocabulary, POSITIONS)
    padding = placement.padding_mask()
    weights = np.where(padding, 0.0, 1.0).astype(np.float32)
    arrays = {
        "cu_seqlens": placement.cu_seqlens,
        "real_lengths": placement.real_lengths,
        "max_seqlen": np.array(np.diff(placement.cu_seqlens).max(), np.int32),
        "tokens": tokens,
        "labels": np.roll(tokens, -1),
        "loss_mask": weights,
        "denominator": np.array(int(weights.sum()), np.int64),
        "position_ids": placement.position_ids("restart" if restarts else "continue"),
    }
    if with_padding_mask:
        arrays["padding_mask"] = padding
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
