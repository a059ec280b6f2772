# SPDX-License-Identifier: Apache-2.0
"""Computes the length multiples that parallelism and precision require."""

from __future__ import annotations

from math import lcm

FP8_MULTIPLES = {"mxfp8": 32, "blockwise": 128}
"""The multiple of tokens that a matrix product needs, by Megatron's ``--fp8-recipe``. Other recipes
need 16 (``get_fp8_align_size``, megatron/core/fp8_utils.py). That function returns 16 for
``blockwise`` too, but with whole blocks of 128 Transformer Engine does not have to pad."""
_FP8_MULTIPLE = 16
_FP4_MULTIPLE = 32  # get_fp4_align_size, megatron/core/fp4_utils.py


def segment_alignment(context_parallel_size: int) -> int:
    """Return the number that the length of every segment must be a multiple of.

    Context parallelism cuts each segment into twice as many chunks as there are ranks. If the
    chunks are not equal, Transformer Engine silently computes wrong values
    (TransformerEngine#3331). Sequence parallelism and FP8 constrain only the length of the row: see
    ``row_multiple``.
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
    """Return the number that the length of a row must be a multiple of.

    Args:
        context_parallel_size: Ranks that share a row.
        tensor_model_parallel_size: Tensor-parallel ranks.
        sequence_parallel: Whether the tensor-parallel ranks share a context-parallel rank's part.
        fp8_recipe: Megatron's name of the FP8 recipe; None without FP8.
        fp4: Whether matrix products use FP4.
    """
    ranks = context_parallel_size * (tensor_model_parallel_size if sequence_parallel else 1)
    part = 1 if fp8_recipe is None else FP8_MULTIPLES.get(fp8_recipe, _FP8_MULTIPLE)
    if fp4:
        part = lcm(part, _FP4_MULTIPLE)
    return lcm(segment_alignment(context_parallel_size), ranks * part)
