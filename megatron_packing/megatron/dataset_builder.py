# SPDX-License-Identifier: Apache-2.0
"""Megatron's dataset builder, without what it does for each document and each corpus."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.utils import Split

from megatron_packing.megatron.indexes import documents_of


class PackedDatasetBuilder(BlendedMegatronDatasetBuilder):
    """Builds packed datasets whose indexes ``prepare_indexes`` has found on every rank.

    Megatron's own builder makes an array of all document numbers for each split, of 32 bits, and
    all ranks wait for each other in a barrier for each split of each corpus.
    """

    def _build_megatron_dataset_splits(
        self,
        dataset_path: str | None,
        split: list[tuple[float, float] | None],
        sizes: list[int],
        *_: Any,
        **__: Any,
    ) -> list[Any]:
        if torch.distributed.is_initialized() and not self.is_built_on_rank():
            return [None] * len(Split)
        corpus = self.cls.build_low_level_dataset(dataset_path, self.config)
        count = self.cls.numel_low_level_dataset(corpus)
        datasets: list[Any] = []
        for bounds, size, which in zip(split, sizes, Split, strict=True):
            if bounds is None:
                datasets.append(None)
                continue
            documents = documents_of(count, bounds)
            datasets.append(self.cls(corpus, dataset_path, documents, size, which, self.config))
        return datasets
