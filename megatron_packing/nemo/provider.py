"""A Megatron-Bridge dataset provider that serves pack indexes.

For Bridge 0.3 (``training/config.py`` has the base class) to 0.6 (``data/base.py``). Use
``use_packed_data`` to put it into a recipe: it sets what else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_packing.megatron.shared_files import open_index_and_corpus
from megatron_packing.nemo.dataset import PackedRowDataset
from megatron_packing.nemo.versions import DatasetProvider, PackedSequenceSpecs
from megatron_packing.thd.layout import Attention, positions_of
from megatron_packing.thd.rows import PackedRows

_ENDLESS = 2**62


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
        index, documents = open_index_and_corpus(path, corpus)
        rows = PackedRows(
            index=index,
            corpus=documents,
            seed=self.seed,
            new_order_each_epoch=is_training,
            attention=self.attention,
            position_ids=positions_of(self.attention),
        )
        # An evaluation takes as many rows as it likes, and Bridge's counts of them vary.
        return PackedRowDataset(rows, num_samples if is_training else _ENDLESS)
