# SPDX-License-Identifier: Apache-2.0
"""What lengths a run's parallelism asks for."""

from __future__ import annotations

from math import lcm

FP8_MULTIPLES = {"mxfp8": 32, "blockwise": 128}
"""Tokens of a matrix product under Megatron's ``--fp8-recipe``. Other recipes ask for 16
(``get_fp8_align_size``, megatron/core/fp8_utils.py), as it says of ``blockwise`` too; whole blocks
of 128 spare Transformer Engine padding them."""
_FP8_MULTIPLE = 16
_FP4_MULTIPLE = 32  # get_fp4_align_size, megatron/core/fp4_utils.py


def segment_alignment(context_parallel_size: int) -> int:
    """The multiple of positions that every segment of a row must take.

    Context parallelism cuts each segment into twice as many chunks as there are ranks, and
    Transformer Engine computes nonsense without an error where they are not equal
    (TransformerEngine#3331). Nothing else asks for it of a segment: rows have one length, so
    sequence parallelism and FP8 only ask it of the row; see ``row_multiple``.
    """
    return 2 * context_parallel_size if context_parallel_size > 1 else 1


def row_multiple(
    *,
    context_parallel_size: int = 1,
    tensor_model_parallel_size: int = 1,
    sequence_parallel: bool = False,
    fp8_recipe: str | None = None,
    fp4: bool = False,
) -> int:
    """The multiple of positions that a row must have.

    Args:
        context_parallel_size: Ranks that share a row.
        tensor_model_parallel_size: Ranks that share a part of it under sequence parallelism.
        sequence_parallel: Whether they do.
        fp8_recipe: Megatron's name of it; None without FP8.
        fp4: Whether products are in FP4.
    """
    ranks = context_parallel_size * (tensor_model_parallel_size if sequence_parallel else 1)
    part = 1 if fp8_recipe is None else FP8_MULTIPLES.get(fp8_recipe, _FP8_MULTIPLE)
    if fp4:
        part = lcm(part, _FP4_MULTIPLE)
    return lcm(segment_alignment(context_parallel_size), ranks * part)
