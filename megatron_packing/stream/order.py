# SPDX-License-Identifier: Apache-2.0
"""Computes the order in which training reads packs; nothing is stored."""

from __future__ import annotations

from typing import Literal, get_args

from megatron_packing import _core

PackOrder = Literal["random", "even"]
"""``random``: ``pack_at``. ``even``: ``even_order.EvenOrder``."""
PACK_ORDERS: tuple[PackOrder, ...] = get_args(PackOrder)
ORDER_VERSION = 1
"""Version of the order of packs and of the exchange of documents between epochs.

Increase it whenever ``pack_at`` or ``PackIndex.segments`` returns another result for the same
arguments: the same index and seed then give other rows.
"""


def pack_at(sample: int, num_packs: int, seed: int) -> int:
    """Return the pack of sample ``sample`` in an endless stream over ``num_packs`` packs.

    Every ``num_packs`` samples are an epoch, which contains each pack once. Its order depends only
    on ``(seed, epoch)``. So the stream does not change if training is resumed, extended, or spread
    over other ranks.
    """
    epoch, index = divmod(sample, num_packs)
    return _core.permute(index, num_packs, _core.derive_key(seed, epoch))
