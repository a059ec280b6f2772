# SPDX-License-Identifier: Apache-2.0
"""Describes a Bridge run on packs at its start, and refuses indexes without a trained token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from megatron_packing.bridge.rotation import describe_recipe_rotation
from megatron_packing.bridge.splits import Packs, Split
from megatron_packing.bridge.versions import (
    evaluation_global_batch,
    evaluation_part,
    takes_padding_mask,
)
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.rows import PackedRows

_SAMPLED_ROWS = 128


def check_trained(part: Packs) -> None:
    """Refuse an index without any trained token.

    Raises:
        InputError: No pack has a trained token.
    """
    index = part.index
    untrained = index.figures.num_packs_untrained
    if untrained is None and part.corpus.has_loss_mask:
        rows = _rows(index, part.corpus)
        trains = any(rows.row(pack)["loss_mask"].any() for pack in range(len(index)))
    else:
        trains = untrained is None or untrained < len(index)
    if not trains:
        raise InputError(
            f"{index.path} has no trained token in any pack, so training would learn nothing; "
            f"check the loss mask of {part.corpus.prefix}, and whether truncation cut off all "
            f"trained tokens"
        )


def advise(cfg: Any, splits: Mapping[str, Split]) -> Iterator[str]:
    """Yield lines about a run, for the first rank to print.

    Args:
        cfg: Bridge's ``ConfigContainer``, as used for training.
        splits: ``train``, and optionally ``validation`` and ``test``.
    """
    yield from _describe_epochs(cfg, splits["train"])
    for name, split in splits.items():
        for part in split.parts:
            yield from _describe_training(name, part)
    if rotation := describe_recipe_rotation(cfg.model):
        yield rotation
    if "validation" in splits:
        yield from _advise_on_evaluation(cfg, splits["validation"])
    if getattr(cfg.model, "num_moe_experts", None):
        if not takes_padding_mask():
            yield (
                "MoE routers count the padding of rows, because Bridge before 0.7 does not pass "
                "them a padding mask"
            )
        yield from _advise_on_balance(cfg.model, splits["train"])


def _describe_epochs(cfg: Any, train: Split) -> Iterator[str]:
    batch, steps = cfg.train.global_batch_size, cfg.train.train_iters
    for number, (index, weight) in enumerate(zip(train.indexes, train.weights, strict=True)):
        epoch = train.epoch(number) / batch
        of = "" if len(train.parts) == 1 else f" of {index.path}"
        share = "" if len(train.parts) == 1 else f", {weight:.1%} from this index"
        yield (
            f"an epoch{of} is {counted(len(index), 'row')}: {epoch:,.1f} steps of {batch:,}{share}"
            + (f"; train_iters {steps:,} make {steps / epoch:,.1f} epochs" if steps else "")
        )
    row = train.indexes[0].plan.sequence_length
    used = sum(
        weight * index.figures.utilisation
        for index, weight in zip(train.indexes, train.weights, strict=True)
    )
    yield (
        f"Bridge counts each row as a sample: a step has about "
        f"{batch * train.documents_per_row:,.0f} documents and {batch * row * used:,.0f} tokens, "
        f"{used:.2%} of its positions"
    )


def _describe_training(name: str, part: Packs) -> Iterator[str]:
    if not part.corpus.has_loss_mask:
        yield (
            f"all tokens of the {name} documents are trained: {part.corpus.prefix} has no loss mask"
        )
    untrained = part.index.figures.num_packs_untrained
    if untrained:
        yield (
            f"{untrained:,} of {counted(len(part.index), 'pack')} of {name} documents have no "
            f"trained token: a step of only such packs learns nothing, and its loss is NaN"
        )


def _advise_on_evaluation(cfg: Any, validation: Split) -> Iterator[str]:
    """Say how to evaluate each document once, if an evaluation does not."""
    if len(validation.parts) > 1:
        return  # a blend has no such number
    rows = len(validation.indexes[0])
    part, batch = evaluation_part(cfg), evaluation_global_batch(cfg)
    taken = (getattr(cfg, part).eval_iters or 0) * batch
    if taken and taken % rows:
        advice = (
            f"cfg.{part}.eval_iters = {rows // batch} evaluates each of them once"
            if rows % batch == 0
            else f"pack with --packs-multiple-of {batch} to evaluate each of them once"
        )
        yield (
            f"an evaluation reads {counted(taken, 'row')}, but the validation documents fill "
            f"{rows:,}: "
            f"{advice}"
        )


def _advise_on_balance(model: Any, train: Split) -> Iterator[str]:
    """Say how much the loss mask increases the weight of MoE balancing losses.

    Megatron multiplies these losses by all tokens of a row (without padding if it gets a mask), as
    if every token was trained. The step then divides all gradients by the trained tokens
    (``attach_and_log_load_balancing_loss`` in ``megatron/core/transformer/moe/router.py``).
    """
    kinds = getattr(model, "moe_router_load_balancing_type", None) or "none"
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    settings = ["moe_z_loss_coeff"]
    if kinds - {"none", "sinkhorn"}:
        settings.append("moe_aux_loss_coeff")
    found = {name: getattr(model, name, None) for name in settings}
    set_to = {name: value for name, value in found.items() if value and value != [0]}
    share = trained_share(train, with_padding=not takes_padding_mask()) if set_to else 1.0
    if set_to and 0 < share < 1:
        yield (
            f"MoE balancing losses weigh about {1 / share:.3g} times as much as with all tokens "
            f"trained, because Megatron divides them by the trained tokens ({share:.0%} of all); "
            f"to keep their weight, set "
            + ", ".join(
                f"cfg.model.{name} to {_scaled(value, share)}" for name, value in set_to.items()
            )
        )


def _scaled(value: Any, share: float) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(f'{one * share:.3g}' for one in value)}]"
    return f"{value * share:.3g}"


def trained_share(train: Split, *, with_padding: bool) -> float:
    """Return the share of trained tokens in all rows; if there are many rows, in a sample of them.

    Args:
        train: The training documents.
        with_padding: Count padding as tokens.
    """
    trained = counted = 0.0
    for part, weight in zip(train.parts, train.weights, strict=True):
        rows = _rows(part.index, part.corpus)
        packs = np.linspace(0, len(part.index) - 1, min(len(part.index), _SAMPLED_ROWS))
        for pack in packs.astype(int).tolist():
            row = rows.row(pack)
            real = part.index.plan.sequence_length if with_padding else row["real_lengths"].sum()
            trained += weight / len(packs) * np.count_nonzero(row["loss_mask"])
            counted += weight / len(packs) * int(real)
    return trained / counted


def _rows(index: PackIndex, corpus: Corpus | JoinedCorpus) -> PackedRows:
    return PackedRows(index=index, corpus=corpus, seed=0, new_order_each_epoch=False)
