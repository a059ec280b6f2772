# SPDX-License-Identifier: Apache-2.0
"""The order in which packs are seen: computed, not stored."""

from __future__ import annotations

from megatron_packing import _core

ORDER_VERSION = 1
"""Version of the order of packs and of the exchange between epochs.

Another version reads other rows from the same index and seed. Raise it whenever ``pack_at`` or
``PackIndex.segments`` would give another answer for the same arguments.
"""


def pack_at(sample: int, num_packs: int, seed: int) -> int:
    """The pack that sample ``sample`` of an endless stream over ``num_packs`` packs is.

    Each run of ``num_packs`` samples is an epoch and holds every pack once, in an order that
    depends on ``(seed, epoch)`` alone; so the stream does not change when training is resumed,
    spread over other ranks or extended.
    """
    epoch, index = divmod(sample, num_packs)
    return _core.permute(index, num_packs, _core.epoch_key(seed, epoch))
