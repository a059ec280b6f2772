# SPDX-License-Identifier: Apache-2.0
"""Imports names that moved between Megatron-Bridge releases."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import megatron_packing.needs.megatron_bridge  # noqa: F401

from megatron_packing.errors import InputError

__all__ = ["BUILDERS", "DataloaderConfig", "DatasetProvider", "PackedSequenceSpecs"]

BUILDERS: dict[type, Any] = {}
"""Bridge's table of dataset builders, by the type of ``cfg.dataset``.

Added in 0.6; before, this dict is empty and Bridge does not read it. Drop the fallback when 0.6 is
the oldest supported."""

if TYPE_CHECKING:
    DataloaderConfig = object
    DatasetProvider = object
    PackedSequenceSpecs = Any
else:
    try:
        try:  # 0.6 moved these names. Drop the fallback when 0.6 is the oldest supported.
            from megatron.bridge.data.base import DataloaderConfig, DatasetProvider
            from megatron.bridge.data.packing.config import PackedSequenceSpecs
            from megatron.bridge.data.utils import _REGISTRY as BUILDERS
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("megatron.bridge.data."):
                raise
            from megatron.bridge.data.datasets.packed_sequence import PackedSequenceSpecs
            from megatron.bridge.training.config import DataloaderConfig, DatasetProvider
    except ImportError as error:
        from megatron.bridge import package_info

        if not (error.name or "").startswith("megatron.bridge.data"):
            raise
        raise InputError(
            f"Megatron-Bridge {package_info.__version__} lacks names that packed data needs "
            f"({error}); install a release from 0.3 to 0.7"
        ) from error
    with suppress(ImportError):
        # From 0.5 on, a recipe in YAML may name registered modules only. Drop the guard when 0.5 is
        # the oldest supported.
        from megatron.bridge.utils.instantiate_utils import register_allowed_target_prefix

        register_allowed_target_prefix("megatron_packing.bridge.")
