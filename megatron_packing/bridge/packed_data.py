# SPDX-License-Identifier: Apache-2.0
"""What a Bridge recipe says about its packed data, and what makes datasets of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

from torch.distributed import get_rank, is_initialized

from megatron_packing.bridge.advice import advise, check_trained
from megatron_packing.bridge.checks import check_run
from megatron_packing.bridge.containers import show_settings_when_validated
from megatron_packing.bridge.dataset import PackedRowDataset
from megatron_packing.bridge.splits import Split, open_splits
from megatron_packing.bridge.stream import Beginning, keep_stream
from megatron_packing.bridge.versions import PackedSequenceSpecs, takes_padding_mask
from megatron_packing.bridge.vocabulary import check_tokens
from megatron_packing.errors import InputError
from megatron_packing.report.console import console
from megatron_packing.thd.layout import Attention, positions_of
from megatron_packing.thd.rows import PackedRows

# Trainings are resumed with other batches and evaluations vary, so Bridge's counts of samples say
# little; the stream has no end.
_ENDLESS = 2**62

Datasets = tuple[PackedRowDataset | None, PackedRowDataset | None, PackedRowDataset | None]

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
class PackedData(_Watcher):
    """The settings, with what Bridge asks ``cfg.dataset`` for beside fields.

    Sample i of training is a function of the indexes, their weights, the seed and i alone: every
    epoch has its own order, and a run that is resumed or extended goes on where it was. So Bridge
    must not shuffle on its own, which ``dataloader_type`` ``single`` keeps it from.
    """

    train: Any
    """The pack index of the training documents, made with ``megatron-packing pack``; or a list of
    several, with a weight before each: see ``splits.Blend``."""
    validation: Any = None
    test: Any = None
    train_corpus: Any = None
    """Where the corpus of the index is, if neither where it was nor beside the index; a list where
    there are several."""
    validation_corpus: Any = None
    test_corpus: Any = None
    seq_length: int
    """Positions of a row, as the indexes have."""
    seed: int = 1234
    """Decides the order and the neighbors of each epoch."""
    attention: Attention = "document"
    """``document``: documents see themselves alone; ``pack``: and those before them in the row."""
    new_stream: bool = False
    """Go on from a checkpoint that was trained on other packs."""
    allow_other_tokenizer: bool = False
    """Do not compare the corpora's tokenizer with the run's."""
    allow_untested_bridge: bool = False
    """Train with a Megatron-Bridge that is newer than those that the tests train with."""
    dataloader_type: str = "single"

    # By the next three, and only from 0.5 on, Bridge hands cu_seqlens to the pipeline stages
    # between the first and the last (gpt_step.py, _middle_pp_stage_needs_batch).
    @property
    def enable_offline_packing(self) -> bool:
        """Rows are packed."""
        return True

    @property
    def offline_packing_specs(self) -> Any:
        """How, from Bridge 0.6 on."""
        return PackedSequenceSpecs(packed_sequence_size=self.seq_length)

    @property
    def packed_sequence_specs(self) -> Any:
        """How, for Bridge 0.5."""
        return self.offline_packing_specs

    @property
    def dataset_kwargs(self) -> dict[str, Any]:
        """Rows have one length."""
        return {"pad_to_max_length": True}

    def open_splits(self) -> dict[str, Split]:
        """Open the indexes of all splits that there are.

        Raises:
            InputError: One cannot be opened.
        """
        return open_splits(
            {"train": self.train, "validation": self.validation, "test": self.test},
            {
                "train": self.train_corpus,
                "validation": self.validation_corpus,
                "test": self.test_corpus,
            },
        )

    def see_settings(self, cfg: Any) -> None:
        """Refuse settings that would train wrongly, before a model is built.

        Raises:
            InputError: Names the setting; or an index cannot be opened.
        """
        self.remember(cfg)
        check_run(cfg, self.open_splits())


def build_datasets(config: PackedData, tokenizer: Any) -> Datasets:
    """Make the training, validation and test rows of a run.

    On every rank, as indexes and corpora are memory-mapped.

    Args:
        config: ``cfg.dataset`` of the run.
        tokenizer: Bridge's, of the run; None where it is not known.

    Raises:
        InputError: An index or its corpus cannot be opened, or the run would train wrongly on
            them: by its settings, its tokenizer and vocabulary, or the checkpoint it goes on from.
    """
    cfg = config._cfg
    if cfg is None or cfg.dataset is not config:
        raise InputError(
            "the settings of this run were not validated, so nothing proves that its rows fit "
            "them; call cfg.validate(), as Bridge's pretrain and finetune do"
        )
    splits = config.open_splits()
    check_run(cfg, splits)
    for split in splits.values():
        for part in split.parts:
            check_trained(part.index, part.corpus)
            check_tokens(
                part.corpus,
                tokenizer,
                cfg.model,
                allow_other_tokenizer=config.allow_other_tokenizer,
            )
    beginning = keep_stream(cfg, splits["train"], config.seed, new_stream=config.new_stream)
    if not config._told and (not is_initialized() or get_rank() == 0):
        for line in advise(cfg, splits):
            console.print(line)
    return (
        _serve(config, splits["train"], is_training=True, beginning=beginning),
        _serve(config, splits.get("validation")),
        _serve(config, splits.get("test")),
    )


def _serve(
    config: PackedData,
    split: Split | None,
    *,
    is_training: bool = False,
    beginning: Beginning | None = None,
) -> PackedRowDataset | None:
    if split is None:
        return None
    rows = [
        PackedRows(
            index=part.index,
            corpus=part.corpus,
            seed=config.seed,
            new_order_each_epoch=is_training,
            attention=config.attention,
            position_ids=positions_of(config.attention),
        )
        for part in split.parts
    ]
    return PackedRowDataset(
        rows,
        _ENDLESS,
        weights=split.weights,
        beginning=beginning,
        with_padding_mask=takes_padding_mask(),
    )
