# SPDX-License-Identifier: Apache-2.0
"""What a run on packs should know at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from megatron_packing.bridge.splits import Packs, Split
from megatron_packing.bridge.versions import takes_padding_mask
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.rows import PackedRows

_SAMPLED_ROWS = 128


def check_trained(index: PackIndex, corpus: Corpus | JoinedCorpus) -> None:
    """Refuse an index none of whose packs has a trained token.

    Raises:
        InputError: It is one.
    """
    untrained = getattr(index.figures, "num_packs_untrained", None)
    if untrained is None and corpus.has_loss_mask:
        rows = _rows(index, corpus)
        trains = any(rows.row(pack)["loss_mask"].any() for pack in range(len(index)))
    else:
        trains = untrained is None or untrained < len(index)
    if not trains:
        raise InputError(
            f"none of the {len(index):,} packs of {index.path} has a trained token, so nothing "
            f"would be learned; look at the loss mask of {corpus.prefix}, or at what truncation "
            f"left of its documents"
        )


def advise(cfg: Any, splits: Mapping[str, Split]) -> Iterator[str]:
    """Lines about a run, for the first rank to print.

    Args:
        cfg: Bridge's ``ConfigContainer``, as it is trained with.
        splits: ``train`` and maybe ``validation`` and ``test``.
    """
    yield from _describe_epochs(cfg, splits["train"])
    for name, split in splits.items():
        for part in split.parts:
            yield from _describe_training(name, part)
    if "validation" in splits:
        yield from _advise_on_evaluation(cfg, splits["validation"])
    if getattr(cfg.model, "num_moe_experts", None):
        if not takes_padding_mask():
            yield (
                "routers of experts count the padding of rows, as Bridge before 0.7 hands them no "
                "padding mask"
            )
        yield from _advise_on_balance(cfg.model, splits["train"])


def _describe_epochs(cfg: Any, train: Split) -> Iterator[str]:
    batch, steps = cfg.train.global_batch_size, cfg.train.train_iters
    for number, (index, weight) in enumerate(zip(train.indexes, train.weights, strict=True)):
        epoch = train.epoch(number) / batch
        of = "" if len(train.parts) == 1 else f" of {index.path}"
        share = "" if len(train.parts) == 1 else f", of which it gives {weight:.1%}"
        yield (
            f"an epoch{of} is {len(index):,} {_rows_word(len(index))}: {epoch:,.1f} steps of "
            f"{batch:,}{share}"
            + (f"; train_iters {steps:,} are {steps / epoch:,.1f} epochs" if steps else "")
        )
    row = train.indexes[0].plan.sequence_length
    used = sum(
        weight * index.figures.utilisation
        for index, weight in zip(train.indexes, train.weights, strict=True)
    )
    yield (
        f"Bridge counts rows as samples: a step is about {batch * train.documents_per_row:,.0f} "
        f"documents and {batch * row * used:,.0f} tokens, {used:.2%} of its positions"
    )


def _describe_training(name: str, part: Packs) -> Iterator[str]:
    if not part.corpus.has_loss_mask:
        yield f"all tokens of the {name} documents are trained: {part.corpus.prefix} has no mask"
    untrained = getattr(part.index.figures, "num_packs_untrained", None)
    if untrained:
        yield (
            f"{untrained:,} of the {len(part.index):,} packs of {name} documents have no trained "
            f"token: a step of such packs alone learns nothing, and its loss is no number"
        )


def _rows_word(count: int) -> str:
    return "row" if count == 1 else "rows"


def _advise_on_evaluation(cfg: Any, validation: Split) -> Iterator[str]:
    """Say how an evaluation takes each document once, where it does not."""
    if len(validation.parts) > 1:
        return  # of a blend it need not
    rows = len(validation.indexes[0])
    part = "cfg.validation" if hasattr(cfg, "validation") else "cfg.train"
    settings = getattr(cfg, "validation", cfg.train)
    batch = getattr(settings, "eval_global_batch_size", None) or cfg.train.global_batch_size
    taken = (settings.eval_iters or 0) * batch
    if taken and taken % rows:
        advice = (
            f"{part}.eval_iters = {rows // batch} takes each of them once"
            if rows % batch == 0
            else f"pack with --packs-multiple-of {batch}, so that whole batches take each once"
        )
        yield (
            f"an evaluation takes {taken:,} rows, but the validation documents fill {rows:,}: "
            f"{advice}"
        )


def _advise_on_balance(model: Any, train: Split) -> Iterator[str]:
    """Say how the loss mask weighs the balancing losses of experts.

    Megatron multiplies them by all tokens of a row, without padding where it is handed a mask, as
    if every token was trained, and the step divides all gradients by the trained ones
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
            f"balancing losses of experts weigh about {1 / share:.3g} times what they weigh where "
            f"all tokens are trained, as Megatron divides them by the trained ones "
            f"({share:.0%}); to keep their weight, set "
            + ", ".join(
                f"cfg.model.{name} to {_scaled(value, share)}" for name, value in set_to.items()
            )
        )


def _scaled(value: Any, share: float) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(f'{one * share:.3g}' for one in value)}]"
    return f"{value * share:.3g}"


def trained_share(train: Split, *, with_padding: bool) -> float:
    """The share of the tokens of all rows that is trained; of some rows, if there are many.

    Args:
        train: The training documents.
        with_padding: Padding counts as tokens.
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
