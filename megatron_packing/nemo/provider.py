"""A Megatron-Bridge dataset provider that serves pack indexes.

For Bridge 0.3 (``training/config.py`` has the base class) to 0.6 (``data/base.py``). Use
``use_packed_data`` to put it into a recipe: it sets what else has to change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.megatron.shared_files import open_on_every_rank
from megatron_packing.nemo.versions import DatasetProvider, PackedSequenceSpecs
from megatron_packing.thd.layout import Attention, positions_of
from megatron_packing.thd.rows import PackedRows

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PackedDataProvider(DatasetProvider):
    """Serves the rows of pack indexes: ``cfg.dataset`` of a Bridge recipe.

    Sample i of training is a function of the index, the seed and i alone: every epoch has its own
    order, and a run that is resumed or extended goes on where it was. So Bridge must not shuffle
    on its own, which ``dataloader_type`` ``single`` keeps it from.
    """

    train: str
    """The pack index of the training documents, made with ``megatron-packing pack``."""
    validation: str | None = None
    test: str | None = None
    train_corpus: str | None = None
    """Where the corpus of the index is, if neither where it was nor beside the index."""
    validation_corpus: str | None = None
    test_corpus: str | None = None
    seq_length: int
    """Positions of a row, as the indexes have."""
    seed: int = 1234
    """Decides the order and the neighbours of each epoch."""
    attention: Attention = "document"
    """``document``: documents see themselves alone; ``pack``: and those before them in the row."""
    dataloader_type: str = "single"

    # What Bridge asks a dataset for, beside fields: by these, and only from 0.5 on, it hands
    # cu_seqlens to the pipeline stages between the first and the last (gpt_step.py,
    # _middle_pp_stage_needs_batch).
    @property
    def enable_offline_packing(self) -> bool:
        """Rows are packed."""
        return True

    @property
    def offline_packing_specs(self) -> Any:
        """How, for Bridge 0.6."""
        return PackedSequenceSpecs(packed_sequence_size=self.seq_length)

    @property
    def packed_sequence_specs(self) -> Any:
        """How, for Bridge 0.5."""
        return self.offline_packing_specs

    @property
    def dataset_kwargs(self) -> dict[str, Any]:
        """Rows have one length."""
        return {"pad_to_max_length": True}

    def build_datasets(
        self, context: Any
    ) -> tuple[PackedRowDataset | None, PackedRowDataset | None, PackedRowDataset | None]:
        """Open the training, validation and test rows; on every rank, as they are memory-mapped.

        Args:
            context: Bridge's ``DatasetBuildContext``, which says how many samples are asked for.

        Raises:
            InputError: An index or its corpus cannot be opened.
        """
        return (
            self._open(self.train, self.train_corpus, context.train_samples, is_training=True),
            self._open(self.validation, self.validation_corpus, context.valid_samples),
            self._open(self.test, self.test_corpus, context.test_samples),
        )

    def _open(
        self, path: str | None, corpus: str | None, num_samples: int, is_training: bool = False
    ) -> PackedRowDataset | None:
        if path is None:
            return None
        index = open_on_every_rank(lambda: PackIndex.open(path), Path(path))
        rows = PackedRows(
            index=index,
            corpus=open_on_every_rank(lambda: open_source(index, corpus), Path(corpus or path)),
            seed=self.seed,
            new_order_each_epoch=is_training,
            attention=self.attention,
            position_ids=positions_of(self.attention),
        )
        return PackedRowDataset(rows, num_samples)


class PackedRowDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows as Bridge's ``gpt_step`` reads them.

    Each sample is a dict of tensors; ``collate_fn`` puts a dimension of rows before each:

        tokens, labels, position_ids        int64, (sequence_length,)
        loss_mask                           float32, (sequence_length,): 1 where the label is
                                            trained
        cu_seqlens_q, cu_seqlens_kv         int32, the same width for every sample; for Bridge 0.6
        max_seqlen_q, max_seqlen_kv         int32, (1,)
        cu_seqlens, max_seqlen              the same, for Bridge up to 0.5
        cu_seqlens_argmin                   int64, (1,): the width, as there is nothing to cut off

    ``cu_seqlens`` covers the row and repeats its end; Bridge's own -1 as filling reaches
    Transformer Engine under context parallelism (Megatron-Bridge#4489).
    """

    def __init__(self, rows: PackedRows, num_samples: int) -> None:
        """Serve the first ``num_samples`` rows of the stream, or one epoch where it is 0."""
        self.rows = rows
        self.num_samples = num_samples

    def __len__(self) -> int:
        """Samples that were asked for, over as many epochs as that takes."""
        return self.num_samples or len(self.rows.index)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        """Lay sample ``idx`` out."""
        arrays = self.rows.row(int(idx))
        row = {
            name: torch.from_numpy(arrays[name])
            for name in ("tokens", "labels", "position_ids", "loss_mask")
        }
        cu_seqlens = torch.from_numpy(arrays["cu_seqlens"])
        max_seqlen = torch.from_numpy(arrays["max_seqlen"].reshape(1))
        return {
            **row,
            "cu_seqlens_q": cu_seqlens,
            "cu_seqlens_kv": cu_seqlens,
            "max_seqlen_q": max_seqlen,
            "max_seqlen_kv": max_seqlen,
            "cu_seqlens": cu_seqlens,
            "cu_seqlens_argmin": torch.tensor([len(cu_seqlens)]),
            "max_seqlen": max_seqlen,
        }

    @staticmethod
    def collate_fn(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack samples: ``(rows, ...)`` of each tensor."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
