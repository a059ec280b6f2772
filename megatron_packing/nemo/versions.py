"""What Megatron-Bridge's releases call what is needed of them."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from megatron_packing.errors import InputError

if TYPE_CHECKING:
    DatasetProvider = object
    PackedSequenceSpecs = Any
else:
    try:  # from 0.6 on
        from megatron.bridge.data.base import DatasetProvider
        from megatron.bridge.data.packing.config import PackedSequenceSpecs
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("megatron.bridge.data."):
            raise
        from megatron.bridge.data.datasets.packed_sequence import PackedSequenceSpecs
        from megatron.bridge.training.config import DatasetProvider
    with suppress(ImportError):
        # From 0.6 on a recipe that is read from YAML may name registered modules only.
        from megatron.bridge.utils.instantiate_utils import register_allowed_target_prefix

        register_allowed_target_prefix("megatron_packing.nemo.")

__all__ = ["DatasetProvider", "PackedSequenceSpecs", "bridge_version"]


def bridge_version() -> tuple[int, int]:
    """The first two numbers of the installed Megatron-Bridge's version.

    Raises:
        InputError: It cannot be found out.
    """
    try:
        text = version("megatron-bridge")
    except PackageNotFoundError:  # a checkout on the PYTHONPATH
        import megatron.bridge

        text = str(getattr(megatron.bridge, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        raise InputError(
            f"the version of Megatron-Bridge is {text!r}, so it cannot be known whether it hands "
            f"cu_seqlens to all pipeline stages; install the package megatron-bridge"
        )
    return int(numbers[1]), int(numbers[2])
