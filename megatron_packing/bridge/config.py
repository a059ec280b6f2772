# SPDX-License-Identifier: Apache-2.0
"""The dataset config and dataset builder of packed data for Megatron-Bridge 0.6 and later.

Bridge looks up the builder by the type of ``cfg.dataset``; importing this module registers it. Use
``use_packed_data`` to put the config into a recipe: it also changes the other settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_packing.bridge.moved_names import BUILDERS, DataloaderConfig
from megatron_packing.bridge.packed_data import Datasets, PackedData, build_datasets


@dataclass(kw_only=True)
class PackedDataConfig(PackedData, DataloaderConfig):
    """Serves rows of pack indexes as ``cfg.dataset`` of a recipe of Bridge 0.6 or later."""


def packed_train_valid_test_datasets_provider(
    train_val_test_num_samples: list[int],  # noqa: ARG001  # Bridge passes it
    dataset_config: PackedDataConfig,
    tokenizer: Any = None,
) -> Datasets:
    """Build the training, validation and test rows; Bridge calls it.

    Args:
        train_val_test_num_samples: Ignored: the rows are endless.
        dataset_config: ``cfg.dataset``.
        tokenizer: The run's tokenizer.

    Raises:
        InputError: See ``packed_data.build_datasets``.
    """
    return build_datasets(dataset_config, tokenizer)


BUILDERS[PackedDataConfig] = packed_train_valid_test_datasets_provider
