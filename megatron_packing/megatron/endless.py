# SPDX-License-Identifier: Apache-2.0
"""Wraps a packed dataset, or a blend of them, so that it never runs out of samples.

Megatron computes the number of samples from the current flags alone and fails when a dataset runs
out. A run needs more samples if it was started with another batch size, evaluation interval or
number of evaluations, or if its batch size grows. Streams of rows are endless, so these datasets
are too.
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
"""A length that no run reaches. Megatron allocates nothing of this size: samplers count up."""


class EndlessDataset(torch.utils.data.Dataset):
    """An endless view of a packed dataset or a blend, from any sample on."""

    def __init__(self, dataset: PackedDataset | BlendedDataset, *, offset: int = 0) -> None:
        """Wrap a dataset.

        Args:
            dataset: A packed dataset, or a blend with weights.
            offset: Sample i is sample ``i + offset`` of the dataset.
        """
        self.dataset = dataset
        self.offset = offset
        # Megatron's dataloaders read these attributes.
        self.split = dataset.split if isinstance(dataset, BlendedDataset) else dataset.index_split
        self.config = dataset.config
        self._order = BlendOrder(dataset.weights) if isinstance(dataset, BlendedDataset) else None

    def __len__(self) -> int:
        """Return more samples than any run reads."""
        return ENDLESS

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Return sample ``idx``."""
        dataset, sample = self.locate(int(idx))
        return dataset[sample]

    def locate(self, idx: int) -> tuple[PackedDataset, int]:
        """Return the packed dataset that holds sample ``idx``, and the sample's index in it."""
        sample = idx + self.offset
        if sample < 0:
            raise IndexError(f"sample {idx} is {-sample} before the first sample of the stream")
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
        """Return the segment lengths of sample ``idx``; see ``PackedRows.segment_lengths``."""
        dataset, sample = self.locate(int(idx))
        return dataset.segment_lengths(sample)


class BlendOrder:
    """Assigns each sample of an endless blend to a dataset, by Megatron's own rule."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Take the weights of the datasets; they sum to 1."""
        self._weights = list(weights)
        self._known: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the number of the dataset that holds a sample, and the sample's index in it.

        Raises:
            IndexError: The sample is negative.
        """
        if sample < 0:
            raise IndexError(f"sample {sample} is before the first sample of the stream")
        if len(self._weights) == 1:
            return 0, sample
        if self._known is None or sample >= len(self._known[0]):
            # By Megatron's rule a longer blend begins like a shorter one.
            self._known = blend_samples(self._weights, 2 * (sample + 1))
        return int(self._known[0][sample]), int(self._known[1][sample])


def blend_samples(
    weights: Sequence[float], num_samples: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Return the dataset of each sample of a blend, and the sample's index in that dataset.

    Uses Megatron's own rule (``BlendedDataset``).

    Args:
        weights: The weights of the datasets; they sum to 1.
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
    """Count how many of the first ``num_samples`` samples of a blend come from each dataset."""
    if len(weights) == 1:
        return [num_samples]
    datasets, _ = blend_samples(weights, num_samples)
    counts: list[int] = np.bincount(datasets, minlength=len(weights)).tolist()
    return counts
