# SPDX-License-Identifier: Apache-2.0
"""Puts pack indexes into a Megatron-Bridge recipe, with all that has to change for them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from megatron_packing.bridge.advice import advise, check_trained
from megatron_packing.bridge.checks import check_index, check_recipe, check_schedule
from megatron_packing.bridge.model_kinds import needs_hybrid_flag
from megatron_packing.bridge.packed_data import PackedData
from megatron_packing.bridge.splits import Blend, Packs, Split, as_setting, open_splits
from megatron_packing.bridge.versions import BUILDERS
from megatron_packing.corpus.corpus import recorded_tokenizer
from megatron_packing.errors import InputError
from megatron_packing.report.console import console
from megatron_packing.thd.layout import ATTENTION, Attention

KeptBatch = Literal["tokens", "documents", "rows"]
KEPT_BATCHES: tuple[KeptBatch, ...] = get_args(KeptBatch)

# Of the old cfg.dataset, what has nothing to do with its data.
_LOADER_SETTINGS = ("num_workers", "pin_memory", "persistent_workers", "data_sharding")


@dataclass(frozen=True, slots=True)
class Change:
    """A setting of a recipe that was changed."""

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
    seed: int | None = None,
    new_stream: bool = False,
    allow_other_tokenizer: bool = False,
    allow_untested_bridge: bool = False,
    quiet: bool = False,
) -> list[Change]:
    """Train a recipe on pack indexes.

    Sets ``cfg.dataset`` and whatever else packed rows need: the micro-batch size, the sequence
    length, the loss of every token weighing the same in a global batch, and the global batch size.
    Call it last, after the recipe's parallelism and batch size are what they are to be. What is
    changed afterwards, such as by overrides on the command line, is checked when Bridge validates
    the recipe and when it builds the datasets. Prints what it changed, on the first rank.

    Args:
        cfg: Bridge's ``ConfigContainer`` of a GPT model.
        train: The pack index of the training documents; or a list of several, with a weight before
            each, as Megatron's ``--data-path`` has them: ``[0.3, "data/chat", 0.7, "data/code"]``.
            A weight is the share of rows; without weights every row weighs the same.
        validation: That of the validation documents; None turns evaluation off.
        test: That of the test documents.
        train_corpus: Where the training corpus is, if neither where it was when the index was made
            nor beside the index; a list where there are several indexes. Likewise the next two.
        validation_corpus: See ``train_corpus``.
        test_corpus: See ``train_corpus``.
        keep: What of the recipe's global batch stays the same: its ``tokens`` (rows times their
            length), its ``documents``, or its number of ``rows``. Rounded to what the data-parallel
            ranks share evenly, where the environment says how many there are.
        documents_per_row: How many documents a row of the recipe held, for ``keep="documents"``;
            None where it held one.
        attention: ``document``: documents see themselves alone; ``pack``: and those before them.
        seed: Of the order of packs; None for the recipe's ``cfg.rng.seed``.
        new_stream: Go on from a checkpoint that was trained on other packs, another seed or another
            plan, which is refused otherwise; see ``packing_stream.json`` beside the checkpoints.
        allow_other_tokenizer: Train although the corpora's tokenizer is not the recipe's. The
            model's vocabulary must hold their tokens in any case.
        allow_untested_bridge: Train with a Megatron-Bridge that is newer than those that the tests
            train with, which is refused otherwise.
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
    if documents_per_row is not None and (documents_per_row <= 0 or keep != "documents"):
        raise InputError(
            f'documents_per_row is {documents_per_row}; it goes with keep="documents" only, and '
            f"says how many documents a row of the recipe held, more than 0"
        )
    check_recipe(cfg, allow_untested_bridge=allow_untested_bridge)
    row = splits["train"].indexes[0].plan.sequence_length
    for split in splits.values():
        for part in split.parts:
            check_trained(part.index, part.corpus)
            check_index(part.index, row, cfg)
    batch, batch_why = _global_batch(cfg, splits["train"], keep, documents_per_row)
    check_schedule(cfg, batch)

    data = _kind_of_data()(
        train=as_setting(train),
        validation=as_setting(validation),
        test=as_setting(test),
        train_corpus=as_setting(train_corpus),
        validation_corpus=as_setting(validation_corpus),
        test_corpus=as_setting(test_corpus),
        seq_length=row,
        seed=cfg.rng.seed if seed is None else seed,
        attention=attention,
        new_stream=new_stream,
        allow_other_tokenizer=allow_other_tokenizer,
        allow_untested_bridge=allow_untested_bridge,
        **{
            name: getattr(cfg.dataset, name)
            for name in _LOADER_SETTINGS
            if hasattr(cfg.dataset, name)
        },
    )
    changes = list(_change(cfg, data, batch, batch_why, splits["train"]))
    data.remember(cfg, told=True)
    if not quiet and os.environ.get("RANK", "0") == "0":
        console.print("changed for packed data:")
        for change in changes:
            console.print(f"  cfg.{change.setting}: {change.was} -> {change.now} ({change.why})")
        tokenizers = (
            line for part in splits["train"].parts for line in _advise_on_tokenizer(cfg, part)
        )
        for line in (*advise(cfg, splits), *tokenizers):
            console.print(line)
    return changes


def _kind_of_data() -> type[PackedData]:
    """What this release of Bridge takes as ``cfg.dataset``."""
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
    """Rows of a global batch, and why so many."""
    old, row = cfg.train.global_batch_size, train.indexes[0].plan.sequence_length
    documents_per_pack = train.documents_per_row
    if keep == "rows":
        wanted = float(old)
    elif keep == "tokens":
        wanted = old * cfg.model.seq_length / row
    else:
        if documents_per_row is None and _packs_already(cfg.dataset):
            raise InputError(
                f'keep="documents" needs documents_per_row, as the recipe packs several documents '
                f"into a row of {cfg.model.seq_length}: give what megatron-packing compare prints "
                f"as docs per pack for that --sequence-length (Bridge's metadata call it "
                f"packing_factor)"
            )
        wanted = old * (documents_per_row or 1.0) / documents_per_pack
    ranks = _data_parallel_size(cfg.model)
    batch = max(1, round(wanted / ranks)) * ranks
    size = f"{batch * row:,} positions, about {batch * documents_per_pack:,.0f} documents a step"
    if batch != wanted:
        size += f"; exactly as before would be {wanted:,.2f} rows"
        size += f", and {ranks} ranks share them" if ranks > 1 else ""
    return batch, f"keeps {keep}: {size}"


def _packs_already(dataset: Any) -> bool:
    specs = getattr(dataset, "offline_packing_specs", None)
    specs = specs or getattr(dataset, "packed_sequence_specs", None)
    return getattr(specs, "packed_sequence_size", 0) > 0


def _data_parallel_size(model: Any) -> int:
    """Ranks that share a global batch, by the launcher's ``WORLD_SIZE``; 1 where it is not set."""
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
    """Make the changes, one after another, and say each that made a difference."""
    indexes = " and ".join(str(part.index.path) for part in train.parts)
    yield Change("dataset", type(cfg.dataset).__name__, type(data).__name__, indexes)
    old_batch = cfg.train.global_batch_size
    cfg.dataset = data
    # Releases with cfg.validation have the settings of evaluations there.
    evaluation = "validation" if hasattr(cfg, "validation") else "train"
    new_settings: list[tuple[str, str, Any, str]] = [
        ("model", "seq_length", data.seq_length, "the row of the pack index"),
        ("train", "micro_batch_size", 1, "a packed row is a micro-batch of its own"),
        ("train", "global_batch_size", batch, batch_why),
        ("model", "calculate_per_token_loss", True, "tokens weigh the same in every row"),
        ("ddp", "average_in_collective", False, "the sum is divided by the batch's tokens, once"),
    ]
    if hasattr(cfg, "validation"):
        new_settings.append(("validation", "eval_micro_batch_size", None, "as in training"))
        if cfg.validation.eval_global_batch_size == old_batch:
            new_settings.append(("validation", "eval_global_batch_size", batch, "as in training"))
    if data.validation is None and data.test is None:
        new_settings.append((evaluation, "eval_iters", 0, "there are no validation documents"))
    if needs_hybrid_flag(cfg.model):
        why = "tells Mamba layers where documents begin"
        new_settings.append(("model", "is_hybrid_model", True, why))
    epochs = getattr(cfg.train, "num_epochs", None)
    if epochs is not None:
        steps = math.ceil(epochs * sum(map(len, train.indexes)) / batch)
        why = f"{epochs:g} epochs; Bridge counts those of its own datasets only"
        new_settings += [
            ("train", "num_epochs", None, "train_iters says it"),
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
            f"the documents were tokenized with {made_with}, the recipe's tokenizer is "
            f"{trained_with}: they are compared when training starts"
        )
