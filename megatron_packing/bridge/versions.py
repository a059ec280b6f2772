# SPDX-License-Identifier: Apache-2.0
"""What Megatron-Bridge's releases call what is needed of them."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import megatron_packing.needs.megatron_bridge  # noqa: F401

from megatron_packing.errors import InputError

BUILDERS: dict[type, Any] = {}
"""By type of ``cfg.dataset``, what Bridge calls for datasets; empty and unused before 0.6."""

if TYPE_CHECKING:
    DataloaderConfig = object
    DatasetProvider = object
    PackedSequenceSpecs = Any
else:
    try:
        try:  # from 0.6 on
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
            f"Megatron-Bridge {package_info.__version__} does not have what packs need of it "
            f"({error}); install one of 0.3 to 0.7"
        ) from error
    with suppress(ImportError):
        # From 0.6 on a recipe that is read from YAML may name registered modules only.
        from megatron.bridge.utils.instantiate_utils import register_allowed_target_prefix

        register_allowed_target_prefix("megatron_packing.bridge.")

__all__ = [
    "BUILDERS",
    "NEWEST_TESTED",
    "DataloaderConfig",
    "DatasetProvider",
    "PackedSequenceSpecs",
    "bridge_version",
    "check_tested",
    "takes_padding_mask",
]

NEWEST_TESTED = (0, 7)
"""The newest Megatron-Bridge that the tests train with: 0.7.0 of 2026-08-22, before its release."""

_FIRST_WITH_PADDING_MASK = (0, 7)


def check_tested(*, allow_untested_bridge: bool) -> None:
    """Refuse a Megatron-Bridge that is newer than those that the tests train with.

    What reads packs may change from one release to the next, and wrong training may look right.

    Args:
        allow_untested_bridge: Do not look at the version.

    Raises:
        InputError: It is newer.
    """
    version = bridge_version()
    if version > NEWEST_TESTED and not allow_untested_bridge:
        raise InputError(
            f"Megatron-Bridge {version[0]}.{version[1]} is newer than "
            f"{NEWEST_TESTED[0]}.{NEWEST_TESTED[1]}, the newest that packs are tested with, so "
            f"nothing proves that it trains them rightly; install that one, or give "
            f"use_packed_data allow_untested_bridge=True"
        )


def bridge_version() -> tuple[int, int]:
    """The first two numbers of Megatron-Bridge's version: of the code that is imported.

    Raises:
        InputError: It cannot be found out.
    """
    from megatron.bridge import package_info

    text = str(getattr(package_info, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        raise InputError(
            f"the version of Megatron-Bridge is {text!r}, so it cannot be known whether it hands "
            f"cu_seqlens to all layers; install a release of it"
        )
    return int(numbers[1]), int(numbers[2])


def takes_padding_mask() -> bool:
    """Whether Bridge hands a row's padding mask to the model."""
    return bridge_version() >= _FIRST_WITH_PADDING_MASK
