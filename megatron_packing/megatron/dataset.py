# SPDX-License-Identifier: Apache-2.0
"""The Megatron dataset whose samples are packed rows."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from megatron.core.datasets.megatron_dataset import MegatronDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.indexes import find_index, open_indexes, opened_data, work_path
from megatron_packing.stream.even_order import EvenOrder
from megatron_packing.thd.layout import positions_of
from megatron_packing.thd.rows import PackedRows


class ForOwnStep(dict[str, Any]):
    """Takes the place of the attention mask in rows that only our own ``get_batch`` may read.

    Megatron's batch path moves a micro-batch's attention mask to the GPU; that raises here. A
    dataloader passes an empty dict through unchanged.
    """

    def cuda(self, *_: object, **__: object) -> NoReturn:
        """Raise InputError."""
        raise InputError(
            "packed rows reached Megatron's own get_batch: give pretrain() forward_step of "
            "megatron_packing.megatron.trainer along with its datasets_provider"
        )

    to = cuda


class PackedDataset(MegatronDataset):
    """Rows of packed documents. Sample i is a function of the pack index, the seed and i alone.

    Indexes beyond its length are valid: they give further epochs, without an end.

    Each sample is a dict of tensors:

        tokens, labels, position_ids   int64, (sequence_length,)
        loss_mask                      float32, (sequence_length,): the weight of each label
        denominator                    int64, (): the row's part of the number that the batch's
                                       loss is divided by; see ``thd.loss_weights``
        cu_seqlens                     int32, the same width for every sample of all splits
        cu_seqlens_padded              the same tensor, only under context parallelism, where
                                       Megatron's own batch path needs it
        real_lengths                   int32, one entry fewer: segment lengths without padding
        max_seqlen                     int32, (): the same for every sample; see ``RowShape``
        padding_mask                   bool, (sequence_length,), with ``packing_with_padding_mask``
        attention_mask                 not a tensor: see ``config.packing_for_own_step``

    With ``packing_with_tokens=False`` the first five are left out, except that the denominator
    stays if there is a padding mask.

    Build it with ``PackedDatasetBuilder`` or Megatron's ``BlendedMegatronDatasetBuilder``, which
    pass the corpus, the documents of one split, and the number of samples that training will read.
    """

    def __init__(
        self,
        dataset: Corpus | JoinedCorpus,
        dataset_path: str | None,
        indices: np.ndarray | range,
        num_samples: int | None,
        index_split: Split,
        config: PackedDatasetConfig,
    ) -> None:
        super().__init__(dataset, dataset_path, indices, num_samples, index_split, config)
        if indices is None:
            raise InputError(
                "--dataloader-fast-cache-load passes no documents to pack; leave it out "
                "(pack indexes are memory-mapped and load at once)"
            )
        if len(indices) == 0:
            raise InputError(
                f"the {index_split.name} split of {dataset_path} holds no documents; "
                f"change --split or give more documents"
            )
        self.corpus = dataset
        self.first_row = 0
        """The row of the stream that is sample 0; greater than 0 if a run read rows before it."""
        documents = range(int(indices[0]), int(indices[-1]) + 1)
        if len(documents) != len(indices):
            raise InputError(
                f"{dataset_path} has {len(dataset):,} documents, more than Megatron's own builder "
                f"can number: build datasets with megatron_packing.megatron.dataset_builder"
            )
        self.indices = documents  # Megatron's array has 4 bytes a document
        if opened_data(config).shape is None:
            open_indexes(config)
        self.index = find_index(str(dataset_path), documents, index_split, config)
        is_training = index_split is Split.train
        self.rows = PackedRows(
            index=self.index,
            corpus=dataset,
            seed=config.random_seed,
            new_order_each_epoch=is_training,
            order=(
                EvenOrder.of_index(
                    self.index,
                    self.corpus,
                    config.packing_even_order,
                    config.random_seed,
                    work_path(config, self.index, self.corpus, config.packing_even_order),
                )
                if is_training and config.packing_even_order
                else None
            ),
            attention=config.packing_attention,
            position_ids=config.packing_position_ids or positions_of(config.packing_attention),
            normaliser=config.packing_normaliser,
            pad_token=max(0, self._pad_token_id or 0),
            run_shape=config.packing_shape,
        )

    @staticmethod
    def numel_low_level_dataset(low_level_dataset: Corpus | JoinedCorpus) -> int:
        """Return the number of documents in a corpus."""
        return len(low_level_dataset)

    @staticmethod
    def build_low_level_dataset(
        dataset_path: str,
        config: PackedDatasetConfig,
    ) -> Corpus | JoinedCorpus:
        """Open a corpus, or several that are packed together (``A,B:2``)."""
        return opened_data(config).corpus(dataset_path)

    @staticmethod
    def _key_config_attributes() -> list[str]:
        return [
            *MegatronDataset._key_config_attributes(),
            "packing_plan",
            "packing_eval_packs_multiple_of",
            "context_parallel_size",
            "packing_indexes",
        ]

    def __len__(self) -> int:
        """Return the number of requested samples, over any number of epochs, or one epoch.

        Megatron requests none if it never evaluates, but raises an error for an empty dataset.
        """
        return self.num_samples or len(self.index)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return sample ``idx``."""
        arrays = self.rows.row(
            self.first_row + int(idx),
            with_tokens=self.config.packing_with_tokens,
            with_padding_mask=self.config.packing_with_padding_mask,
        )
        if (self.config.context_parallel_size or 1) > 1:
            arrays["cu_seqlens_padded"] = arrays["cu_seqlens"]
        sample: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self.config.packing_for_own_step:
            sample["attention_mask"] = ForOwnStep()
        return sample

    def segment_lengths(self, idx: int) -> NDArray[np.int64]:
        """Return the segment lengths of sample ``idx``; see ``PackedRows.segment_lengths``."""
        return self.rows.segment_lengths(self.first_row + int(idx))
