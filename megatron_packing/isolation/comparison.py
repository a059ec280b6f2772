# SPDX-License-Identifier: Apache-2.0
"""Compares what a model computes for two rows.

A slot is a place in the model, in the order in which it is passed; the last one is the losses. A
segment is a document of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.counted import counted

GRADIENT_SHARE = 1e-5
"""The share of a document's gradient that another one may get. It is 0 where nothing leaks."""
NUMBERS = 8
"""Numbers that stand for the output of a layer at one position: products with random vectors."""
_CHUNK = 4096
"""Positions that are multiplied at once, to bound memory."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a row is from the real one, or gradients from none; equal on all ranks."""

    moved: Tensor
    """float32, ``(slots, segments)``: relative, losses absolute; 0 for segments not compared."""
    ranks: Tensor
    """float32, ``(slots, context-parallel ranks)``: the same, by who holds the positions."""


def first_moved(
    one: Comparison, tolerances: Tensor, tolerance_of_loss: float
) -> tuple[int, list[int]] | None:
    """Return the first slot where documents moved, and which did anywhere; None if none did."""
    limits = tolerances.clone()
    limits[-1] = tolerance_of_loss
    moved = one.moved > limits[:, None]
    if not moved.any():
        return None
    slot = int(torch.nonzero(moved.any(1))[0])
    return slot, torch.nonzero(moved.any(0)).flatten().tolist()


def how_far(one: Comparison, slot: int, tolerances: Tensor, tolerance_of_loss: float) -> str:
    """Say by how much losses are apart, or where they are not, the first slot that is."""
    loss = float(one.moved[-1].max())
    if loss > tolerance_of_loss:
        return f"losses by {loss:.1e}, more than {tolerance_of_loss:.1e}"
    moved, limit = float(one.moved[slot].max()), float(tolerances[slot])
    return f"outputs there by {moved:.1e} of their largest, more than {limit:.1e}"


def first_not_finite(one: Comparison) -> int | None:
    """Return the first slot that has numbers that are not finite; None if none has."""
    slots = torch.nonzero(~torch.isfinite(one.moved).all(1)).flatten().tolist()
    return slots[0] if slots else None


def last_given(one: Comparison) -> tuple[int, list[int]] | None:
    """Return where a gradient last came to other documents, and which got one; None if none did.

    Gradients flow back, so what takes the output of the last slot is where they first leaked. The
    documents are those that got one in the first slot, to which all leaks flow.
    """
    dirty = torch.nonzero(one.moved[:-1].amax(1) > GRADIENT_SHARE).flatten().tolist()
    if not dirty:
        return None
    return dirty[-1], torch.nonzero(one.moved[dirty[0]] > GRADIENT_SHARE).flatten().tolist()


def describe_given(one: Comparison, sources: str, segments: list[int], place: str) -> str:
    """Say that the loss of some documents gave others a gradient, and in which place first."""
    return (
        f"the loss of {sources} of a row gave {name_documents(segments)} a gradient "
        f"({float(one.moved[:-1].max()):.1e} of its own), first in {place}"
    )


def name_documents(segments: list[int]) -> str:
    """Name documents by their numbers in the row, from 1 on: "documents 1 and 3"."""
    numbers = [f"{segment + 1}" for segment in segments]
    if len(numbers) == 1:
        return f"document {numbers[0]}"
    if len(numbers) > 4:
        return f"{counted(len(numbers), 'document')} ({', '.join(numbers[:3])}, ...)"
    return f"documents {', '.join(numbers[:-1])} and {numbers[-1]}"


def summarize(hidden: Tensor) -> Tensor:
    """Return ``NUMBERS`` numbers for each position of ``(positions, 1, hidden size)``.

    Two positions with the same hidden states have the same numbers, bit for bit.
    """
    rows = hidden.reshape(hidden.shape[0], -1)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(rows.shape[1], NUMBERS, generator=generator).to(rows.device)
    parts = [rows[i : i + _CHUNK].float() @ vectors for i in range(0, len(rows), _CHUNK)]
    return torch.cat(parts)


def root_of_mean(values: Tensor) -> Tensor:
    """Return the root of the mean square; what is no number counts as infinite."""
    return torch.nan_to_num(values, nan=float("inf")).square().mean().sqrt()


def largest(values: Tensor) -> Tensor:
    """Return the largest value; what is no number counts as infinite."""
    return torch.nan_to_num(values, nan=float("inf")).max()
