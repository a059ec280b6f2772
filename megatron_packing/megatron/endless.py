# SPDX-License-Identifier: Apache-2.0
"""Datasets without an end.

Megatron asks a dataset for the samples that training will take by the settings of this run alone,
and stops with an error where they run out. A run takes more of them if it was begun with another
batch size, interval or number of evaluations, or if its batch size grows by a schedule. The streams
of rows have no end, so the datasets have none either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from megatron.core.datasets import helpers
from megatron.core.datasets.blended_dataset import BlendedDataset
from numpy.typing import NDArray

from megatron_packing.megatron.dataset import PackedDataset

ENDLESS = 2**62
"""A length that no run reaches. Megatron makes nothing of this size: samplers count upwards."""


class EndlessDataset(torch.utils.data.Dataset):
    """Packs, or a blend of such, from any sample on without an end."""

    def __init__(self, dataset: PackedDataset | BlendedDataset, *, offset: int = 0) -> None:
        """Wrap a dataset.

        Args:
            dataset: Of packs, or a blend with weights.
            offset: Sample i is sample ``i + offset`` of the dataset.
        """
        self.dataset = dataset
        self.offset = offset
        # Megatron's dataloaders ask for them.
        self.split = dataset.split if isinstance(dataset, BlendedDataset) else dataset.index_split
        self.config = dataset.config
        self._order = BlendOrder(dataset.weights) if isinstance(dataset, BlendedDataset) else None

    def __len__(self) -> int:
        """More samples than any run takes."""
        return ENDLESS

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Lay sample ``idx`` out."""
        dataset, sample = self.locate(int(idx))
        return dataset[sample]

    def locate(self, idx: int) -> tuple[PackedDataset, int]:
        """The dataset of packs that gives sample ``idx``, and which sample of it that is."""
        sample = idx + self.offset
        if sample < 0:
            raise IndexError(f"sample {idx} lies {-sample} before the beginning of the stream")
        if self._order is None:
            return self.dataset, sample
        blend = self.dataset
        if blend.dataset_index is None:
            blend[0]  # --dataloader-defer-npy-index-mmap: the first sample loads it
        indices = blend.dataset_index, blend.dataset_sample_index
        if sample < len(indices[0]):
            return blend.datasets[int(indices[0][sample])], int(indices[1][sample])
        which, own_sample = self._order.locate(sample)
        return blend.datasets[which], own_sample

    def segment_lengths(self, idx: int) -> NDArray[np.int64]:
        """What attention computes for sample ``idx``; see ``PackedRows.segment_lengths``."""
        dataset, sample = self.locate(int(idx))
        return dataset.segment_lengths(sample)


class BlendOrder:
    """Which dataset gives each sample of a blend that has no end, by Megatron's own rule."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Take the weights of the datasets; together 1."""
        self._weights = list(weights)
        self._known: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None

    def locate(self, sample: int) -> tuple[int, int]:
        """The number of the dataset that gives a sample, and which of its samples that is.

        Raises:
            IndexError: The sample is negative.
        """
        if sample < 0:
            raise IndexError(f"sample {sample} lies before the beginning of the stream")
        if len(self._weights) == 1:
            return 0, sample
        if self._known is None or sample >= len(self._known[0]):
            # Megatron's rule gives the same beginning for every size.
            self._known = blend_samples(self._weights, 2 * (sample + 1))
        return int(self._known[0][sample]), int(self._known[1][sample])


def blend_samples(
    weights: Sequence[float], num_samples: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Which dataset gives each sample of a blend, and which sample of that dataset it is.

    By Megatron's own rule (``BlendedDataset``).

    Args:
        weights: Of the datasets; together 1.
        num_samples: The size of the blend.

    Returns:
        Two arrays of shape ``(num_samples,)``.
    """
    datasets = np.zeros(num_samples, np.int16)
    samples = np.zeros(num_samples, np.int64)
    helpers.build_blending_indices(
        datasets, samples, np.asarray(weights, np.float64), len(weights), num_samples, False
    )
    return datasets, samples


def count_samples(weights: Sequence[float], num_samples: int) -> list[int]:
    """How many of the first ``num_samples`` samples of a blend each dataset gives."""
    if len(weights) == 1:
        return [num_samples]
    datasets, _ = blend_samples(weights, num_samples)
    counts: list[int] = np.bincount(datasets, minlength=len(weights)).tolist()
    return counts
