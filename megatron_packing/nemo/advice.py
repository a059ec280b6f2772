"""What a run on packs should know at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.rows import PackedRows

Opened = Mapping[str, tuple[PackIndex, Corpus | JoinedCorpus]]
"""By split: ``train`` and maybe ``validation`` and ``test``."""

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


def advise(cfg: Any, opened: Opened) -> Iterator[str]:
    """Lines about a run, for the first rank to print.

    Args:
        cfg: Bridge's ``ConfigContainer``, as it is trained with.
        opened: The indexes, with their corpora.
    """
    index, corpus = opened["train"]
    batch = cfg.train.global_batch_size
    steps, epoch = cfg.train.train_iters, len(index) / batch
    yield (
        f"an epoch is {len(index):,} {_rows_word(len(index))}: {epoch:,.1f} steps of {batch:,}"
        + (f"; train_iters {steps:,} are {steps / epoch:,.1f} epochs" if steps else "")
    )
    for name, (one, documents) in opened.items():
        if not documents.has_loss_mask:
            yield f"all tokens of the {name} documents are trained: {documents.prefix} has no mask"
        untrained = getattr(one.figures, "num_packs_untrained", None)
        if untrained:
            yield (
                f"{untrained:,} of the {len(one):,} packs of {name} documents have no trained "
                f"token: a step of such packs alone learns nothing, and its loss is no number"
            )
    if "validation" in opened:
        yield from _advise_on_evaluation(cfg, len(opened["validation"][0]))
    if getattr(cfg.model, "num_moe_experts", None):
        yield "routers of experts count the padding of rows, as Bridge hands them no padding mask"
        yield from _advise_on_balance(cfg.model, index, corpus)


def _rows_word(count: int) -> str:
    return "row" if count == 1 else "rows"


def _advise_on_evaluation(cfg: Any, rows: int) -> Iterator[str]:
    """Say how an evaluation takes each document once, where it does not."""
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


def _advise_on_balance(
    model: Any, index: PackIndex, corpus: Corpus | JoinedCorpus
) -> Iterator[str]:
    """Say how the loss mask weighs the balancing losses of experts.

    Megatron multiplies them by all tokens of a row, as if every token was trained, and the step
    divides all gradients by the trained ones (``attach_and_log_load_balancing_loss`` in
    ``megatron/core/transformer/moe/router.py``).
    """
    kinds = getattr(model, "moe_router_load_balancing_type", None) or "none"
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    settings = ["moe_z_loss_coeff"]
    if kinds - {"none", "sinkhorn"}:
        settings.append("moe_aux_loss_coeff")
    found = {name: getattr(model, name, None) for name in settings}
    set_to = {name: value for name, value in found.items() if value and value != [0]}
    share = trained_share(index, corpus) if set_to else 1.0
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


def trained_share(index: PackIndex, corpus: Corpus | JoinedCorpus) -> float:
    """The share of the positions of all rows that are trained; of some of them, if there are many.

    Padding counts as positions.
    """
    rows = _rows(index, corpus)
    packs = np.linspace(0, len(index) - 1, min(len(index), _SAMPLED_ROWS)).astype(int)
    trained = sum(int(np.count_nonzero(rows.row(pack)["loss_mask"])) for pack in packs.tolist())
    return trained / (len(packs) * index.plan.sequence_length)


def _rows(index: PackIndex, corpus: Corpus | JoinedCorpus) -> PackedRows:
    return PackedRows(index=index, corpus=corpus, seed=0, new_order_each_epoch=False)
