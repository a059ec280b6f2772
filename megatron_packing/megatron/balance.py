# SPDX-License-Identifier: Apache-2.0
"""Step balance: the packs of a global batch dealt so that every data-parallel rank has equal work.

A step lasts as long as its slowest rank. Which rank takes which pack of a global batch does not
change the gradient, as the loss is divided by the trained tokens of the whole batch; so the packs
of each batch are put in an order of which Megatron's sampler hands every rank its share.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.errors import InputError
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.endless import EndlessDataset

# A dataloader's workers read ahead, by default two samples each, so neighboring batches meet.
_ORDERS_KEPT = 4


@dataclass(frozen=True, slots=True)
class WorkModel:
    """The work of a row, in any unit: that of its tokens and that of its attention.

    A rank's rows have as many tokens as any other's, so the ratio of the two numbers says how much
    an uneven attention matters for a step; the best deal is the same for all ratios.
    """

    per_token: int
    """Of a token in the linear parts of a layer."""
    per_squared_length: int
    """Of causal attention over a segment, divided by the square of its length."""

    def __post_init__(self) -> None:
        if self.per_token < 0 or self.per_squared_length < 1:
            raise ValueError(
                f"per_token is {self.per_token} and per_squared_length {self.per_squared_length}; "
                f"they must be at least 0 and 1"
            )

    @classmethod
    def from_shape(
        cls,
        *,
        hidden_size: int,
        ffn_hidden_size: int,
        num_attention_heads: int,
        num_query_groups: int,
        kv_channels: int,
        swiglu: bool,
    ) -> WorkModel:
        """Count the floating-point operations of a transformer layer's forward pass.

        As Megatron does (``num_floating_point_operations`` in megatron/training/training.py, after
        arXiv 2104.04473, appendix): two for each weight and token, and 2 * heads * channels for
        each square of a length, half of which the causal mask leaves of the two products. The
        backward pass doubles both, every layer has the same, and the logits are left out.
        """
        query = num_attention_heads * kv_channels
        key_and_value = 2 * num_query_groups * kv_channels
        attention = hidden_size * (query + key_and_value) + query * hidden_size
        mlp = (3 if swiglu else 2) * hidden_size * ffn_hidden_size
        per_token, per_squared_length = 2 * (attention + mlp), 2 * query
        unit = gcd(per_token, per_squared_length)
        return cls(per_token // unit, per_squared_length // unit)

    def work(self, segment_lengths: NDArray[np.int64]) -> int:
        """The work of a row.

        Args:
            segment_lengths: Shape ``(num_segments,)``: positions of each segment, the tail among
                them.
        """
        squares = int(np.dot(segment_lengths, segment_lengths))
        return self.per_token * int(segment_lengths.sum()) + self.per_squared_length * squares


class BalancedDataset(torch.utils.data.Dataset):
    """A training dataset whose samples change places within their global batch.

    The members of every batch stay. Sample i is a function of the dataset, the numbers given here
    and i alone.
    """

    def __init__(
        self,
        dataset: PackedDataset | BlendedDataset | EndlessDataset,
        *,
        global_batch_size: int,
        data_parallel_size: int,
        work_model: WorkModel,
        first_sample: int = 0,
    ) -> None:
        """Wrap a dataset.

        Args:
            dataset: Of packs, or a blend of such.
            global_batch_size: Packs of a batch, over all ranks.
            data_parallel_size: Ranks, of which each takes every ``data_parallel_size``-th sample.
            work_model: What is to be equal.
            first_sample: Where one batch starts and, counted from there, all others.

        Raises:
            ValueError: A size is below 1.
            InputError: The batch is not a whole number of packs for each rank.
        """
        if data_parallel_size < 1 or global_batch_size < 1:
            raise ValueError(
                f"global_batch_size is {global_batch_size} and data_parallel_size "
                f"{data_parallel_size}; they must be at least 1"
            )
        if global_batch_size % data_parallel_size:
            raise InputError(
                f"--global-batch-size is {global_batch_size}, which {data_parallel_size} "
                f"data-parallel ranks do not share evenly; give a multiple of {data_parallel_size}"
            )
        self.dataset = dataset
        self._samples = EndlessDataset(dataset) if isinstance(dataset, BlendedDataset) else dataset
        # Megatron's dataloaders ask for it.
        self.split = dataset.index_split if isinstance(dataset, PackedDataset) else dataset.split
        self.config = dataset.config
        self._batch_size = global_batch_size
        self._num_ranks = data_parallel_size
        self._work_model = work_model
        self._phase = first_sample % global_batch_size
        self._orders: dict[int, NDArray[np.int64]] = {}  # the last used, by the batch's start

    def __len__(self) -> int:
        """Samples of the wrapped dataset."""
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Lay out the sample that stands at ``idx`` after balancing."""
        return self.dataset[self.source(int(idx))]

    def source(self, idx: int) -> int:
        """The sample of the wrapped dataset that stands at ``idx``."""
        place = (idx - self._phase) % self._batch_size
        start = idx - place
        if start < 0 or start + self._batch_size > len(self):
            return idx  # an incomplete batch stays as it is
        if start not in self._orders:
            order = self._balance(start)  # first: at worst the cache keeps what it had
            if len(self._orders) == _ORDERS_KEPT:
                del self._orders[next(iter(self._orders))]
            self._orders[start] = order
        return start + int(self._orders[start][place])

    def _balance(self, start: int) -> NDArray[np.int64]:
        batch = range(start, start + self._batch_size)
        work = [self._work_model.work(self._samples.segment_lengths(sample)) for sample in batch]
        return _core.balance(np.array(work, np.int64), self._num_ranks)


def balance_steps(
    dataset: PackedDataset | BlendedDataset | EndlessDataset | None,
    args: Namespace,
    *,
    first_sample: int | None = None,
) -> PackedDataset | BlendedDataset | EndlessDataset | BalancedDataset | None:
    """Balance the training dataset where ``--packing-balance`` asks for it.

    Args:
        dataset: The training dataset; None, on ranks without one, is given back.
        args: Megatron's arguments, with a checkpoint's consumed samples where one was loaded.
        first_sample: The number of the sample that training goes on with; None for the consumed
            samples.
    """
    if dataset is None or not args.packing_balance:
        return dataset
    return BalancedDataset(
        dataset,
        global_batch_size=args.global_batch_size,
        data_parallel_size=args.data_parallel_size,
        work_model=WorkModel.from_shape(
            hidden_size=args.hidden_size,
            ffn_hidden_size=args.ffn_hidden_size,
            num_attention_heads=args.num_attention_heads,
            num_query_groups=(
                args.num_query_groups if args.group_query_attention else args.num_attention_heads
            ),
            kv_channels=args.kv_channels,
            swiglu=args.swiglu,
        ),
        # Batches start where training goes on: with another batch size before, not at a multiple.
        first_sample=args.consumed_train_samples if first_sample is None else first_sample,
    )
