# SPDX-License-Identifier: Apache-2.0
"""Puts pack indexes into a Megatron-Bridge recipe and changes the settings they need."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from megatron_packing.bridge.advice import advise, check_trained
from megatron_packing.bridge.checks import check_index, check_recipe, check_schedule, check_width
from megatron_packing.bridge.model_kinds import hybrid_settings
from megatron_packing.bridge.moved_names import BUILDERS
from megatron_packing.bridge.packed_data import PackedData
from megatron_packing.bridge.rotation import why_not_fused
from megatron_packing.bridge.splits import Blend, Packs, Split, as_setting, open_splits, shape_of
from megatron_packing.bridge.versions import (
    can_check_packing,
    evaluation_part,
    num_epochs,
    packed_sequence_size,
)
from megatron_packing.corpus.corpus import recorded_tokenizer
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_rank_0
from megatron_packing.report.console import console
from megatron_packing.stream.order import PACK_ORDERS, PackOrder
from megatron_packing.thd.layout import ATTENTION, Attention

KeptBatch = Literal["tokens", "documents", "rows"]
KEPT_BATCHES: tuple[KeptBatch, ...] = get_args(KeptBatch)

# Settings of the old cfg.dataset that are kept.
_LOADER_SETTINGS = ("num_workers", "pin_memory", "persistent_workers", "data_sharding")


@dataclass(frozen=True, slots=True)
class Change:
    """One changed setting of a recipe."""

    setting: str
    was: Any
    now: Any
    why: str


def use_packed_data(
    cfg: Any,
    *,
    train: Blend,
    validation: Blend | None = None,
    test: Blend | None = None,
    train_corpus: Blend | None = None,
    validation_corpus: Blend | None = None,
    test_corpus: Blend | None = None,
    keep: KeptBatch = "tokens",
    documents_per_row: float | None = None,
    attention: Attention = "document",
    order: PackOrder = "random",
    seed: int | None = None,
    new_stream: bool = False,
    packing_check: bool = False,
    allow_other_tokenizer: bool = False,
    allow_untested_bridge: bool = False,
    allow_unfused_attention: bool = False,
    quiet: bool = False,
) -> list[Change]:
    """Train a recipe on pack indexes.

    Sets ``cfg.dataset`` and the other settings that packed rows need: the micro-batch size, the
    sequence length, a per-token loss, and the global batch size. Call it last, after you set the
    recipe's parallelism and batch size. Later changes, such as command-line overrides, are checked
    when Bridge validates the recipe and when it builds the datasets. Prints the changes on the
    first rank.

    Args:
        cfg: Bridge's ``ConfigContainer`` of a GPT model.
        train: The pack index of the training documents; or a list of several, with a weight before
            each, as in Megatron's ``--data-path``: ``[0.3, "data/chat", 0.7, "data/code"]``. A
            weight is the share of rows; without weights every row weighs the same.
        validation: The pack index of the validation documents; None disables evaluation.
        test: The pack index of the test documents.
        train_corpus: The training corpus, if it moved since the index was made and is not beside
            the index; a list if there are several indexes. Likewise the next two.
        validation_corpus: See ``train_corpus``.
        test_corpus: See ``train_corpus``.
        keep: What stays the same in the recipe's global batch: its ``tokens`` (rows times their
            length), its ``documents``, or its number of ``rows``. Rounded to a multiple of the
            data-parallel ranks if the environment says how many there are.
        documents_per_row: Documents per row of the recipe, for ``keep="documents"``; None for one.
        attention: ``document``: a document attends only to itself; ``pack``: also to those before
            it in the row.
        order: The order of packs, ``random`` or ``even``. With ``even`` data-parallel ranks run
            packs of like work in every micro-batch, and global batches have like work, which
            shortens steps under pipeline, expert and fully sharded parallelism; see
            ``stream.even_order``. It needs one index, and at least two rows of a global batch for
            each data-parallel rank.
        seed: The seed of the order of packs; None for the recipe's ``cfg.rng.seed``.
        new_stream: Continue from a checkpoint that was trained on other packs, another seed or
            another plan, which is refused otherwise; see ``packing_stream.json`` beside the
            checkpoints.
        packing_check: Prove before the first step, on the run's own model, kernels and layout, that
            the documents of a row do not see each other, and else end the run.
        allow_other_tokenizer: Accept corpora whose tokenizer is not the recipe's. Their tokens must
            be in the model's vocabulary in any case.
        allow_untested_bridge: Accept a Megatron-Bridge that is newer than the newest tested
            release, which is refused otherwise.
        allow_unfused_attention: Train even if Transformer Engine has no fused attention kernel for
            packed rows, so that it stores all attention scores. Such runs are refused otherwise.
        quiet: Print nothing.

    Returns:
        The changes.

    Raises:
        InputError: The recipe cannot be trained on these indexes, or this Bridge would train it
            wrongly. ``cfg`` is as it was.
    """
    corpora = {"train": train_corpus, "validation": validation_corpus, "test": test_corpus}
    splits = open_splits({"train": train, "validation": validation, "test": test}, corpora)
    _check_choice("keep", keep, KEPT_BATCHES)
    _check_choice("attention", attention, ATTENTION)
    _check_choice("order", order, PACK_ORDERS)
    if documents_per_row is not None and (documents_per_row <= 0 or keep != "documents"):
        raise InputError(
            f"documents_per_row is {documents_per_row}; give the number of documents in a row of "
            f'the recipe, greater than 0, and only with keep="documents"'
        )
    check_recipe(cfg, allow_untested_bridge=allow_untested_bridge)
    if packing_check and not can_check_packing():
        raise InputError(
            "packing_check is True, but the check needs Megatron-Bridge 0.4 or later; install it, "
            "or leave packing_check out"
        )
    row = splits["train"].indexes[0].plan.sequence_length
    for split in splits.values():
        for part in split.parts:
            check_trained(part)
            check_index(part.index, row, cfg)
    check_width(shape_of(splits, attention), cfg)
    batch, batch_why = _global_batch(cfg, splits["train"], keep, documents_per_row)
    check_schedule(cfg, batch)

    data = _data_class()(
        train=as_setting(train),
        validation=as_setting(validation),
        test=as_setting(test),
        train_corpus=as_setting(train_corpus),
        validation_corpus=as_setting(validation_corpus),
        test_corpus=as_setting(test_corpus),
        seq_length=row,
        seed=cfg.rng.seed if seed is None else seed,
        attention=attention,
        order=order,
        new_stream=new_stream,
        packing_check=packing_check,
        allow_other_tokenizer=allow_other_tokenizer,
        allow_untested_bridge=allow_untested_bridge,
        allow_unfused_attention=allow_unfused_attention,
        **{
            name: getattr(cfg.dataset, name)
            for name in _LOADER_SETTINGS
            if hasattr(cfg.dataset, name)
        },
    )
    changes = list(_change(cfg, data, batch, batch_why, splits["train"]))
    data.remember(cfg, splits, is_described=True)
    if not quiet and is_rank_0():
        console.print("changed for packed data:")
        for change in changes:
            console.print(f"  cfg.{change.setting}: {change.was} -> {change.now} ({change.why})")
        tokenizers = (
            line for part in splits["train"].parts for line in _advise_on_tokenizer(cfg, part)
        )
        for line in (*advise(cfg, splits), *tokenizers):
            console.print(line)
    return changes


def _data_class() -> type[PackedData]:
    """Return the class that this release of Bridge takes as ``cfg.dataset``."""
    if BUILDERS:
        from megatron_packing.bridge.config import PackedDataConfig

        return PackedDataConfig
    from megatron_packing.bridge.provider import PackedDataProvider

    return PackedDataProvider


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; use one of {', '.join(choices)}")


def _global_batch(
    cfg: Any, train: Split, keep: KeptBatch, documents_per_row: float | None
) -> tuple[int, str]:
    """Return the rows of the new global batch, and the reason for this number."""
    old, row = cfg.train.global_batch_size, train.indexes[0].plan.sequence_length
    documents_per_pack = train.documents_per_row
    if keep == "rows":
        wanted = float(old)
    elif keep == "tokens":
        wanted = old * cfg.model.seq_length / row
    else:
        if documents_per_row is None and packed_sequence_size(cfg.dataset) > 0:
            raise InputError(
                f'keep="documents" needs documents_per_row, because the recipe packs several '
                f"documents into a row of {cfg.model.seq_length}: give the docs per pack that "
                f"megatron-packing compare prints for that --sequence-length (Bridge's metadata "
                f"calls it packing_factor)"
            )
        wanted = old * (documents_per_row or 1.0) / documents_per_pack
    ranks = _data_parallel_size(cfg.model)
    batch = max(1, round(wanted / ranks)) * ranks
    size = f"{batch * row:,} positions, about {batch * documents_per_pack:,.0f} documents a step"
    if batch != wanted:
        size += f"; an exact match would be {wanted:,.2f} rows"
        size += f", and {ranks} ranks share them" if ranks > 1 else ""
    return batch, f"keeps {keep}: {size}"


def _data_parallel_size(model: Any) -> int:
    """Return the data-parallel size by the launcher's ``WORLD_SIZE``; 1 if it is not set."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ranks = (
        model.tensor_model_parallel_size
        * model.pipeline_model_parallel_size
        * model.context_parallel_size
    )
    return max(1, world // ranks)


def _change(
    cfg: Any, data: PackedData, batch: int, batch_why: str, train: Split
) -> Iterator[Change]:
    """Make the changes and yield those that changed a value."""
    indexes = " and ".join(str(part.index.path) for part in train.parts)
    yield Change("dataset", type(cfg.dataset).__name__, type(data).__name__, indexes)
    old_batch = cfg.train.global_batch_size
    cfg.dataset = data
    evaluation = evaluation_part(cfg)
    new_settings: list[tuple[str, str, Any, str]] = [
        ("model", "seq_length", data.seq_length, "the row length of the pack index"),
        ("train", "micro_batch_size", 1, "a packed row is a micro-batch of its own"),
        ("train", "global_batch_size", batch, batch_why),
        ("model", "calculate_per_token_loss", True, "a token has the same weight in every row"),
        (
            "ddp",
            "average_in_collective",
            False,
            "the sum is divided by the batch's tokens only once",
        ),
    ]
    if evaluation == "validation":
        new_settings.append(("validation", "eval_micro_batch_size", None, "as in training"))
        if cfg.validation.eval_global_batch_size == old_batch:
            new_settings.append(("validation", "eval_global_batch_size", batch, "as in training"))
    if data.validation is None and data.test is None:
        new_settings.append((evaluation, "eval_iters", 0, "there are no validation documents"))
    if getattr(cfg.model, "apply_rope_fusion", None) is False and not why_not_fused(cfg.model):
        why = "one kernel for all documents of a row; Bridge's rule allows it"
        new_settings.append(("model", "apply_rope_fusion", True, why))
    new_settings += [
        ("model", name, value, why) for name, (value, why) in hybrid_settings(cfg.model).items()
    ]
    epochs = num_epochs(cfg)
    if epochs is not None:
        steps = math.ceil(epochs * sum(map(len, train.indexes)) / batch)
        why = f"{epochs:g} epochs; Bridge counts only epochs of its own datasets"
        new_settings += [
            ("train", "num_epochs", None, "replaced by train_iters"),
            ("train", "train_iters", steps, why),
        ]
    for part, name, now, why in new_settings:
        target = getattr(cfg, part)
        was = getattr(target, name)
        if was != now:
            setattr(target, name, now)
            yield Change(f"{part}.{name}", was, now, why)


def _advise_on_tokenizer(cfg: Any, part: Packs) -> Iterator[str]:
    made_with = recorded_tokenizer(part.corpus.prefix)
    trained_with = getattr(cfg.tokenizer, "tokenizer_model", None)
    if made_with and trained_with and made_with != f"{trained_with}":
        yield (
            f"the documents were tokenized with {made_with}, but the recipe's tokenizer is "
            f"{trained_with}; the two are compared when training starts"
        )
