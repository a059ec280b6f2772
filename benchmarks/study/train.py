# SPDX-License-Identifier: Apache-2.0
"""Trains a model on planned steps; a run that was stopped goes on where it last was saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.study.batches import Row, Step
from benchmarks.study.models import packed_loss, padded_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Settings of AdamW. Its learning rate rises linearly, then falls as a cosine to a tenth."""

    learning_rate: float
    warm_up: float = 0.1
    """Share of the steps."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    positions_at_once: int = 8192
    """Rows are computed together up to so many positions."""
    save_seconds: float = 60.0
    """CPU seconds between saved states."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run was like."""

    trained_tokens: list[int]
    """Of each step."""
    documents: int
    """Rows' segments over all steps, parts of split documents among them."""
    cpu_seconds: float
    measured: list[list[float]]
    """What ``measure`` returned at the end of each epoch."""


def train(
    model: PreTrainedModel,
    steps: list[Step],
    lay: Callable[..., Row],
    training: Training,
    *,
    epochs: int = 1,
    measure: Callable[[PreTrainedModel], list[float]] = lambda _: [],
    padded: bool = False,
    state: Path | None = None,
) -> Trained:
    """Train a model in place.

    Args:
        model: The model.
        steps: The rows of each optimizer step.
        lay: Returns the tensors of a row.
        training: The optimizer's settings.
        epochs: ``measure`` is called at so many equal parts of the steps.
        measure: Measures the model.
        padded: Compute each document in a padded row of its own.
        state: A file for the state of a run that is stopped; removed by the caller.
    """
    compute = padded_loss if padded else packed_loss
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=training.weight_decay,
    )
    trained_tokens: list[int] = []
    measured: list[list[float]] = []
    documents, spent, first = 0, 0.0, 0
    if state is not None and state.exists():
        saved = torch.load(state, map_location=model.device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        trained_tokens, measured = saved["trained_tokens"], saved["measured"]
        documents, spent, first = saved["documents"], saved["spent"], len(trained_tokens)
    ends = {(epoch + 1) * len(steps) // epochs for epoch in range(epochs)}
    began = last_saved = time.process_time()
    for number in range(first, len(steps)):
        rows = [lay(segments) for segments in steps[number]]
        denominator = sum(row.denominator for row in rows)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _share(number, len(steps), training.warm_up)
        for together in _group(rows, training.positions_at_once):
            if any(row.num_trained for row in together):
                (compute(model, together) / max(denominator, 1)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        trained_tokens.append(sum(row.num_trained for row in rows))
        documents += sum(len(segments.document_ids) for segments in steps[number])
        if number + 1 in ends:
            measured.append(measure(model))
        now = time.process_time()
        if state is not None and now - last_saved > training.save_seconds:
            _save(
                state,
                model=model.state_dict(),
                optimizer=optimizer.state_dict(),
                trained_tokens=trained_tokens,
                measured=measured,
                documents=documents,
                spent=spent + now - began,
            )
            last_saved = now
    return Trained(trained_tokens, documents, spent + time.process_time() - began, measured)


def _share(step: int, num_steps: int, warm_up: float) -> float:
    """Return the learning rate of a step as a share of the highest."""
    rising = max(1, round(warm_up * num_steps))
    if step < rising:
        return (step + 1) / rising
    fallen = (step - rising) / max(1, num_steps - rising)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * fallen))


def _group(rows: list[Row], most: int) -> list[list[Row]]:
    """Divide rows, in order, into groups of up to so many positions."""
    groups: list[list[Row]] = []
    filled = most
    for row in rows:
        filled += len(row.tokens)
        if filled > most:
            groups.append([])
            filled = len(row.tokens)
        groups[-1].append(row)
    return groups


def _save(path: Path, **state: object) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
