# SPDX-License-Identifier: Apache-2.0
"""Packed data as Megatron-Bridge 0.6 and later take data: a config, and a builder of datasets.

Bridge finds the builder by the type of ``cfg.dataset`` in a table that importing this module adds
to. Use ``use_packed_data`` to put the config into a recipe: it sets what else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_packing.bridge.packed_data import Datasets, PackedData, build_datasets
from megatron_packing.bridge.versions import BUILDERS, DataloaderConfig


@dataclass(kw_only=True)
class PackedDataConfig(PackedData, DataloaderConfig):
    """Rows of pack indexes: ``cfg.dataset`` of a recipe of Bridge 0.6 or later."""


def packed_train_valid_test_datasets_provider(
    train_val_test_num_samples: list[int],  # noqa: ARG001  # Bridge gives it
    dataset_config: PackedDataConfig,
    tokenizer: Any = None,
) -> Datasets:
    """Build the training, validation and test rows; Bridge calls it.

    Args:
        train_val_test_num_samples: Not looked at: the rows have no end.
        dataset_config: ``cfg.dataset``.
        tokenizer: Of the run.

    Raises:
        InputError: See ``packed_data.build_datasets``.
    """
    return build_datasets(dataset_config, tokenizer)


BUILDERS[PackedDataConfig] = packed_train_valid_test_datasets_provider
