# SPDX-License-Identifier: Apache-2.0
"""Runs the rows of a check forward, and the losses of every second document backward."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.isolation.comparison import Comparison, largest, root_of_mean
from megatron_packing.isolation.packed_row import PackedRow
from megatron_packing.isolation.recorder import LOSSES, Recorder
from megatron_packing.isolation.result import RowForm

_MOST_TOKENS = 100
"""Tokens are drawn from the first of a vocabulary, which no model gives a meaning of its own."""


@dataclass(slots=True)
class Passes:
    """What was compared."""

    row: PackedRow
    typical_loss: float
    not_taken: tuple[str, ...]
    """Inputs that the model's ``forward`` does not take."""
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    """By row: "again", "replaced 0" and "replaced 1" where every second document was replaced,
    "gradient 0" and "gradient 1" of the losses of these documents, "alone 2"."""

    def alternate(self, number: int) -> list[int]:
        """Every second document, from the first or from the second on."""
        return list(range(number, len(self.row.lengths), 2))


def run_rows(model: Any, form: RowForm, recorder: Recorder) -> Passes:
    """Run all rows.

    Args:
        model: A causal language model of transformers.
        form: How rows are told to it.
        recorder: Watches it.

    Raises:
        Exception: As the model raises them.
    """
    num_tokens = min(model.config.vocab_size, _MOST_TOKENS)
    row = PackedRow.random(num_tokens)
    segments = range(len(row.lengths))
    rows = {"real": row, "again": row}
    for number in (0, 1):
        rows[f"replaced {number}"] = row.with_others(segments[number::2], num_tokens)
    rows |= {f"alone {segment}": row.alone(segment) for segment in segments}
    with torch.no_grad():
        for name, one in rows.items():
            recorder.begin(name, one, goes_back=False)
            recorder.losses[name] = _losses(model, one, form).cpu()
    recorder.slots.append(LOSSES)
    passes = Passes(row, float(recorder.losses["real"].mean()), _not_taken(model, row, form))
    for name, one in rows.items():
        if name != "real":
            passes.comparisons[name] = _compare(recorder, row, name, one)
    for number in (0, 1):
        name = f"gradient {number}"
        recorder.begin(name, row, goes_back=True)
        losses = _losses(model, row, form)
        wanted = sum(losses[row.spans[segment]].sum() for segment in segments[number::2])
        torch.autograd.grad(wanted, [recorder.embedded])
        passes.comparisons[name] = _weigh_gradients(recorder, passes, number)
    return passes


def _losses(model: Any, row: PackedRow, form: RowForm) -> Tensor:
    told = row.inputs(form, model.device)
    for name in _not_taken(model, row, form):
        told.pop(name)
    torch.manual_seed(1)  # of what is random in spite of all
    return row.losses(model(**told, use_cache=False).logits[0])


def _not_taken(model: Any, row: PackedRow, form: RowForm) -> tuple[str, ...]:
    """Return the inputs that a model does not name, if it takes no others."""
    parameters = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return ()
    return tuple(name for name in row.inputs(form, torch.device("cpu")) if name not in parameters)


def _compare(recorder: Recorder, row: PackedRow, name: str, other: PackedRow) -> Comparison:
    """Compare the documents that should not have moved with those of the real row."""
    found = _nothing(recorder, row)
    kind, _, number = name.partition(" ")
    if kind == "again":
        pairs = [(segment, at, at) for segment, at in enumerate(row.spans)]
    elif kind == "replaced":
        kept = range(1 - int(number), len(row.lengths), 2)
        pairs = [(segment, row.spans[segment], row.spans[segment]) for segment in kept]
    else:
        pairs = [(int(number), row.spans[int(number)], other.spans[0])]
    of_all = root_of_mean if kind == "alone" else largest
    for slot, place in enumerate(recorder.slots):
        now, was = _values(recorder, name, place), _values(recorder, "real", place)
        if now is None or was is None:
            continue
        scale = 1.0 if place == LOSSES else float(was.abs().max().clamp(min=1e-30))
        for segment, at, now_at in pairs:
            moved = (now[now_at] - was[at]).abs().flatten(1 if now.ndim > 1 else 0)
            moved = moved.amax(1) if moved.ndim > 1 else moved
            found.moved[slot, segment] = of_all(moved) / scale
    return found


def _values(recorder: Recorder, row: str, slot: str) -> Tensor | None:
    return recorder.losses.get(row) if slot == LOSSES else recorder.outputs.get((row, slot))


def _weigh_gradients(recorder: Recorder, passes: Passes, number: int) -> Comparison:
    """Compare the gradients that other documents got with the largest of their own."""
    found = _nothing(recorder, passes.row)
    spans = passes.row.spans
    for slot, place in enumerate(recorder.slots):
        gradient = recorder.gradients.get((f"gradient {number}", place))
        if gradient is None:
            continue
        own = max(float(gradient[spans[segment]].max()) for segment in passes.alternate(number))
        for segment in passes.alternate(1 - number):
            found.moved[slot, segment] = largest(gradient[spans[segment]]) / max(own, 1e-30)
    return found


def _nothing(recorder: Recorder, row: PackedRow) -> Comparison:
    slots = len(recorder.slots)
    return Comparison(torch.zeros(slots, len(row.lengths)), torch.zeros(slots, 1))
