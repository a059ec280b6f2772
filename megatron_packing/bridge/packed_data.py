# SPDX-License-Identifier: Apache-2.0
"""The packed data settings of a Bridge recipe, and the datasets built from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_packing.bridge.advice import advise, check_trained
from megatron_packing.bridge.checks import check_kernels, check_run
from megatron_packing.bridge.containers import show_settings_when_validated
from megatron_packing.bridge.dataset import PackedRowDataset
from megatron_packing.bridge.even_order import check_even_order, even_settings_of
from megatron_packing.bridge.moved_names import PackedSequenceSpecs
from megatron_packing.bridge.splits import Split, open_as_rank_0, open_splits, shape_of
from megatron_packing.bridge.stream import Beginning, keep_stream, recorded_order
from megatron_packing.bridge.versions import takes_padding_mask
from megatron_packing.bridge.vocabulary import check_tokens
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_rank_0, on_first_rank
from megatron_packing.megatron.packed_rotation import index_rotary_positions
from megatron_packing.report.console import console
from megatron_packing.stream.even_order import EvenOrder, EvenSettings
from megatron_packing.stream.order import PackOrder
from megatron_packing.thd.layout import Attention, positions_of
from megatron_packing.thd.row_shape import RowShape
from megatron_packing.thd.rows import PackedRows

# Runs resume with other batch sizes and evaluation counts, so Bridge's sample counts are
# unreliable: the stream is endless.
_ENDLESS = 2**62

_calls = itertools.count()

Datasets = tuple[PackedRowDataset | None, PackedRowDataset | None, PackedRowDataset | None]

show_settings_when_validated()


class _Watcher:
    """Holds the run's settings. Not a dataclass, so that they do not become a field."""

    _cfg: Any = None
    _is_described: bool = False
    _opened: tuple[Any, dict[str, Split]] | None = None

    def remember(self, cfg: Any, splits: dict[str, Split], *, is_described: bool = False) -> None:
        """Keep the settings and what was opened for them.

        Args:
            cfg: Bridge's ``ConfigContainer``.
            splits: The result of ``open_splits``.
            is_described: Whether the description of the run was printed.
        """
        self._cfg = cfg
        self._opened = self._asked(), splits
        self._is_described = self._is_described or is_described

    def _asked(self) -> Any:
        """What decides which files are opened."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, without the settings: a copy may belong to another run."""
        return {name: value for name, value in vars(self).items() if name not in _OF_THIS_RUN}


_OF_THIS_RUN = ("_cfg", "_opened")


@dataclass(kw_only=True)
class PackedData(_Watcher):
    """The packed data settings, and the properties that Bridge reads from ``cfg.dataset``.

    Training sample i depends only on the indexes, their weights, the seed and i. Every epoch has
    its own order, and a run that is resumed or extended continues where it was. So Bridge must not
    shuffle rows itself: ``dataloader_type`` must stay ``single``.
    """

    train: Any
    """The pack index of the training documents, made with ``megatron-packing pack``; or a list of
    several, with a weight before each: see ``splits.Blend``."""
    validation: Any = None
    test: Any = None
    train_corpus: Any = None
    """The corpus of the index, if it moved and is not beside the index; a list if there are several
    indexes."""
    validation_corpus: Any = None
    test_corpus: Any = None
    seq_length: int
    """Positions of a row; the same as in the indexes."""
    seed: int = 1234
    """The seed of each epoch's order of packs and documents."""
    attention: Attention = "document"
    """``document``: a document attends only to itself; ``pack``: also to those before it."""
    order: PackOrder = "random"
    """The order of packs; see ``use_packed_data``."""
    new_stream: bool = False
    """Continue from a checkpoint that was trained on other packs."""
    allow_other_tokenizer: bool = False
    """Do not compare the corpora's tokenizers with the run's."""
    allow_untested_bridge: bool = False
    """Accept a Megatron-Bridge that is newer than the newest tested release."""
    packing_check: bool = False
    """Prove before the first step that the documents of a row do not see each other."""
    allow_unfused_attention: bool = False
    """Train even if Transformer Engine has no fused attention kernel for packed rows."""
    dataloader_type: str = "single"

    # From 0.5 on, the next three make Bridge pass cu_seqlens to the pipeline stages between the
    # first and the last (gpt_step.py, _middle_pp_stage_needs_batch).
    @property
    def enable_offline_packing(self) -> bool:
        """True: rows are packed."""
        return True

    @property
    def offline_packing_specs(self) -> Any:
        """The packing, for Bridge 0.6 and later."""
        return PackedSequenceSpecs(packed_sequence_size=self.seq_length)

    @property
    def packed_sequence_specs(self) -> Any:
        """The packing, for Bridge 0.5."""
        return self.offline_packing_specs

    @property
    def dataset_kwargs(self) -> dict[str, Any]:
        """The setting that all rows have one length."""
        return {"pad_to_max_length": True}

    def open_splits(self) -> dict[str, Split]:
        """Open the indexes of all splits, unless they were opened before.

        Raises:
            InputError: An index cannot be opened.
        """
        asked = self._asked()
        if self._opened is None or self._opened[0] != asked:
            self._opened = asked, open_splits(*asked)
        return self._opened[1]

    def _asked(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
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
        splits = self.open_splits()
        self.remember(cfg, splits)
        check_run(cfg, splits)


def build_datasets(config: PackedData, tokenizer: Any) -> Datasets:
    """Build the training, validation and test datasets of a run.

    Every rank builds them, because indexes and corpora are memory-mapped.

    Args:
        config: ``cfg.dataset`` of the run.
        tokenizer: The run's tokenizer; None if it is unknown.

    Raises:
        InputError: An index or its corpus cannot be opened, or the run would train wrongly because
            of its settings, its tokenizer and vocabulary, or its checkpoint; or Transformer Engine
            has no fused attention for it.
    """
    cfg = config._cfg
    if cfg is None or cfg.dataset is not config:
        raise InputError(
            "the settings of this run were not validated, so its rows may not fit them; call "
            "cfg.validate(), as Bridge's pretrain and finetune do"
        )
    splits = config.open_splits()
    check_run(cfg, splits)
    open_as_rank_0(splits)
    on_first_rank(
        f"check splits {next(_calls)}",
        lambda: _check_documents(config, splits, tokenizer),
        "train on the packs",
    )
    index_rotary_positions()  # most of Bridge's recipes do not fuse rotary embeddings
    for line in check_kernels(cfg, splits):
        if is_rank_0():
            console.print(line)
    even = _even_settings(cfg, splits["train"])
    beginning = keep_stream(
        cfg, splits["train"], config.seed, order=even, new_stream=config.new_stream
    )
    if not config._is_described and is_rank_0():
        for line in advise(cfg, splits):
            console.print(line)
    shape = shape_of(splits, config.attention)
    train = _serve(config, splits["train"], shape, is_training=True, beginning=beginning, even=even)
    if config.packing_check and train is not None:
        from megatron_packing.bridge.isolation import check_before_training  # needs core 0.17

        check_before_training(cfg, train)
    return (
        train,
        _serve(config, splits.get("validation"), shape),
        _serve(config, splits.get("test"), shape),
    )


def _check_documents(config: PackedData, splits: Mapping[str, Split], tokenizer: Any) -> None:
    """Refuse documents that the run cannot be trained on."""
    for split in splits.values():
        for part in split.parts:
            check_trained(part)
            check_tokens(
                part.corpus,
                tokenizer,
                config._cfg.model,
                allow_other_tokenizer=config.allow_other_tokenizer,
            )


def _even_settings(cfg: Any, train: Split) -> EvenSettings | None:
    """Return the settings of the even order, those of the checkpoint if it has one."""
    config: PackedData = cfg.dataset
    if config.order == "random":
        return None
    check_even_order(cfg, train)
    return (None if config.new_stream else recorded_order(cfg)) or even_settings_of(cfg)


def _serve(
    config: PackedData,
    split: Split | None,
    shape: RowShape,
    *,
    is_training: bool = False,
    beginning: Beginning | None = None,
    even: EvenSettings | None = None,
) -> PackedRowDataset | None:
    if split is None:
        return None
    rows = [
        PackedRows(
            index=part.index,
            corpus=part.corpus,
            seed=config.seed,
            new_order_each_epoch=is_training,
            order=(
                EvenOrder.of_index(part.index, part.corpus, even, config.seed) if even else None
            ),
            attention=config.attention,
            position_ids=positions_of(config.attention),
            run_shape=shape,
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
