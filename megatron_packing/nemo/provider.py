"""A Megatron-Bridge dataset provider that serves pack indexes.

For Bridge 0.3 (``training/config.py`` has the base class) to 0.6 (``data/base.py``). Use
``use_packed_data`` to put it into a recipe: it sets what else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

from torch.distributed import get_rank, is_initialized

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.shared_files import open_index_and_corpus
from megatron_packing.nemo.advice import advise, check_trained
from megatron_packing.nemo.checks import check_run
from megatron_packing.nemo.containers import show_settings_when_validated
from megatron_packing.nemo.dataset import PackedRowDataset
from megatron_packing.nemo.stream import keep_stream
from megatron_packing.nemo.versions import DatasetProvider, PackedSequenceSpecs
from megatron_packing.nemo.vocabulary import check_tokens
from megatron_packing.report.console import console
from megatron_packing.thd.layout import Attention, positions_of
from megatron_packing.thd.rows import PackedRows

# Trainings are resumed with other batches and evaluations vary, so Bridge's counts of samples say
# little; the stream has no end.
_ENDLESS = 2**62

show_settings_when_validated()


class _Watcher:
    """Not a dataclass, so that the settings of the run are no setting themselves."""

    _cfg: Any = None
    _told: bool = False

    def remember(self, cfg: Any, *, told: bool = False) -> None:
        """Take note of Bridge's ``ConfigContainer``, and whether its user was told about it."""
        self._cfg = cfg
        self._told = self._told or told

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along; it may belong to other settings."""
        return {name: value for name, value in vars(self).items() if name != "_cfg"}


@dataclass(kw_only=True)
class PackedDataProvider(_Watcher, DatasetProvider):
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
    new_stream: bool = False
    """Go on from a checkpoint that was trained on other packs."""
    allow_other_tokenizer: bool = False
    """Do not compare the corpora's tokenizer with the run's."""
    allow_untested_bridge: bool = False
    """Train with a Megatron-Bridge that is newer than those that the tests train with."""
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

    def see_settings(self, cfg: Any) -> None:
        """Refuse settings that would train wrongly, before a model is built.

        Raises:
            InputError: Names the setting; or an index cannot be opened.
        """
        self.remember(cfg)
        check_run(cfg, {name: index for name, (index, _) in self._open().items()})

    def build_datasets(
        self, context: Any
    ) -> tuple[PackedRowDataset | None, PackedRowDataset | None, PackedRowDataset | None]:
        """Open the training, validation and test rows; on every rank, as they are memory-mapped.

        Args:
            context: Bridge's ``DatasetBuildContext``.

        Raises:
            InputError: An index or its corpus cannot be opened, or the run would train wrongly on
                them: by its settings, its tokenizer and vocabulary, or the checkpoint it goes on
                from.
        """
        cfg = self._cfg
        if cfg is None or cfg.dataset is not self:
            raise InputError(
                "the settings of this run were not validated, so nothing proves that its rows fit "
                "them; call cfg.validate(), as Bridge's pretrain and finetune do"
            )
        opened = self._open()
        check_run(cfg, {name: index for name, (index, _) in opened.items()})
        for index, corpus in opened.values():
            check_trained(index, corpus)
            check_tokens(
                corpus,
                context.tokenizer,
                cfg.model,
                allow_other_tokenizer=self.allow_other_tokenizer,
            )
        ahead = keep_stream(cfg, opened["train"][0], self.seed, new_stream=self.new_stream)
        if not self._told and (not is_initialized() or get_rank() == 0):
            for line in advise(cfg, opened):
                console.print(line)
        return (
            self._serve(opened.get("train"), is_training=True, ahead=ahead),
            self._serve(opened.get("validation")),
            self._serve(opened.get("test")),
        )

    def _open(self) -> dict[str, tuple[PackIndex, Corpus | JoinedCorpus]]:
        splits = {
            "train": (self.train, self.train_corpus),
            "validation": (self.validation, self.validation_corpus),
            "test": (self.test, self.test_corpus),
        }
        return {
            name: open_index_and_corpus(path, corpus)
            for name, (path, corpus) in splits.items()
            if path is not None
        }

    def _serve(
        self,
        opened: tuple[PackIndex, Corpus | JoinedCorpus] | None,
        *,
        is_training: bool = False,
        ahead: int = 0,
    ) -> PackedRowDataset | None:
        if opened is None:
            return None
        index, documents = opened
        rows = PackedRows(
            index=index,
            corpus=documents,
            seed=self.seed,
            new_order_each_epoch=is_training,
            attention=self.attention,
            position_ids=positions_of(self.attention),
        )
        return PackedRowDataset(rows, _ENDLESS, ahead)
