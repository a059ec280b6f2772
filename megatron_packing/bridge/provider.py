# SPDX-License-Identifier: Apache-2.0
"""Packed data as Megatron-Bridge before 0.6 takes data: a provider of datasets.

Later releases still take it, for recipes in YAML that name it, but call it deprecated: see
``bridge.config``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_packing.bridge.packed_data import Datasets, PackedData, build_datasets
from megatron_packing.bridge.versions import DatasetProvider


@dataclass(kw_only=True)
class PackedDataProvider(PackedData, DatasetProvider):
    """Serves the rows of pack indexes: ``cfg.dataset`` of a recipe."""

    def build_datasets(self, context: Any) -> Datasets:
        """Open the training, validation and test rows.

        Args:
            context: Bridge's ``DatasetBuildContext``.

        Raises:
            InputError: See ``packed_data.build_datasets``.
        """
        return build_datasets(self, context.tokenizer)
