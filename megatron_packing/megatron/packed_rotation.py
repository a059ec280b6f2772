# SPDX-License-Identifier: Apache-2.0
"""Applies rotary embeddings to packed rows in a few kernels, where Megatron does not fuse them.

Without fusion (YaRN, multi-latent attention, ``--no-rope-fusion``, and by default in
Megatron-Bridge) Megatron launches kernels for each entry of ``cu_seqlens`` in every layer, and the
host waits for the GPU to learn the lengths. Here the angles of all positions are looked up at once:
the number of kernels does not depend on the width of ``cu_seqlens``, and nothing waits.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
from megatron.core.models.common.embeddings import rope_utils
from torch import Tensor

_REPLACED = "_apply_rotary_pos_emb_thd"


@functools.cache
def index_rotary_positions() -> None:
    """Let Megatron's unfused rotary embeddings of packed rows look up all positions at once.

    The values are the same, bit for bit. Replaces ``_apply_rotary_pos_emb_thd`` of Megatron's
    ``rope_utils``, which ``apply_rotary_pos_emb`` calls by name; it has no other seam. Takes effect
    for the rest of the process.
    """
    original = getattr(rope_utils, _REPLACED)

    @functools.wraps(original)
    def rotate(t: Tensor, cu_seqlens: Tensor, freqs: Tensor, *args: Any, **settings: Any) -> Any:
        group = settings.pop("cp_group", None)
        if args or group is None or cu_seqlens.dim() != 1:
            if group is not None:
                settings["cp_group"] = group
            return original(t, cu_seqlens, freqs, *args, **settings)
        if settings.get("multi_latent_attention", 0) is None:  # deprecated in 0.19
            del settings["multi_latent_attention"]
        settings.pop("max_seqlen", None)  # of 0.20, which compares it with the table's length
        size, rank = group.size(), group.rank()
        # As Megatron: a table as long as the row holds the angles of the row's positions.
        is_of_row = freqs.shape[0] == t.shape[0] * size
        angles = freqs[_positions(cu_seqlens, t.shape[0], size, rank, is_of_row)]
        rotated = rope_utils._apply_rotary_pos_emb_bshd(t.unsqueeze(1), angles, **settings)
        return rotated.squeeze(1)

    setattr(rope_utils, _REPLACED, rotate)


def describe_rotation(settings: Any) -> str | None:
    """Say which rotary embedding of packed rows runs, for the log; None if the model has none.

    Args:
        settings: Megatron's arguments, or a model provider of Megatron-Bridge.
    """
    kind = getattr(settings, "position_embedding_type", None)
    if kind not in ("rope", "yarn") and not getattr(settings, "multi_latent_attention", False):
        return None
    if getattr(settings, "apply_rope_fusion", False):
        return "rotary embeddings of packed rows: Megatron's fused kernel"
    return (
        "rotary embeddings of packed rows: not fused; the angles of all positions are looked up at "
        "once"
    )


def rotary_positions(
    cu_seqlens: Tensor, held: int, *, size: int = 1, rank: int = 0, is_of_row: bool = False
) -> Tensor:
    """Return the row of the table of angles for each position that a rank holds.

    Launches a fixed number of kernels and does not wait for the device.

    Args:
        cu_seqlens: int32 or int64, ``(width,)``: offsets of segments that cover the row; repeated
            offsets are empty segments. Under context parallelism segments are multiples of
            ``2 * size``.
        held: Positions that each context-parallel rank holds.
        size: Context-parallel ranks.
        rank: This rank among them. It holds chunks ``rank`` and ``2 * size - 1 - rank`` of each
            segment.
        is_of_row: Whether the table has the angles of all positions of the row; otherwise they
            restart in each segment.

    Returns:
        int64, ``(held,)``.
    """
    place = torch.arange(held, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    offsets = cu_seqlens if size == 1 else cu_seqlens // size
    segment = torch.searchsorted(offsets, place, right=True) - 1  # the last one of empty ones
    start = offsets[segment]
    position = place - start
    if size > 1:
        chunk = (offsets[segment + 1] - start) // 2
        later = position + (2 * size - 2 - rank) * chunk
        position = torch.where(position < chunk, position + rank * chunk, later)
    if is_of_row:
        position = position + cu_seqlens[segment]
    return position.long()


class _Last:
    """The positions of the row that was asked for last: all layers of a micro-batch ask alike."""

    row: weakref.ref[Tensor] | None = None
    asked: tuple[Any, ...] = ()
    positions: Tensor | None = None


def _positions(cu_seqlens: Tensor, held: int, size: int, rank: int, is_of_row: bool) -> Tensor:
    asked = (cu_seqlens._version, held, size, rank, is_of_row)
    found = _Last.positions
    if found is None or _Last.row is None or _Last.row() is not cu_seqlens or _Last.asked != asked:
        found = rotary_positions(cu_seqlens, held, size=size, rank=rank, is_of_row=is_of_row)
        _Last.row, _Last.asked, _Last.positions = weakref.ref(cu_seqlens), asked, found
    return found
