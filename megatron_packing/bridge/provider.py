# SPDX-License-Identifier: Apache-2.0
"""The dataset provider of packed data for Megatron-Bridge before 0.6.

Later releases accept it for recipes in YAML that name it, but mark it deprecated: see
``bridge.config``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_packing.bridge.moved_names import DatasetProvider
from megatron_packing.bridge.packed_data import Datasets, PackedData, build_datasets


@dataclass(kw_only=True)
class PackedDataProvider(PackedData, DatasetProvider):
    """Serves rows of pack indexes as ``cfg.dataset`` of a recipe."""

    def build_datasets(self, context: Any) -> Datasets:
        """Build the training, validation and test datasets.

        Args:
            context: Bridge's ``DatasetBuildContext``.

        Raises:
            InputError: See ``packed_data.build_datasets``.
        """
        return build_datasets(self, context.tokenizer)
