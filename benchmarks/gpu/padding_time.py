# SPDX-License-Identifier: Apache-2.0
"""Measures whether padding is faster than real tokens because all of it is one token.

Identical values switch fewer transistors, so a card at its power limit runs at a higher clock.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import torch
from ground import Ground, batches, loss_of, make_dataset, make_model
from throughput import clock_and_watts, typical_rows


def measure_padding(ground: Ground) -> None:
    """Padded rows, the same rows with random tokens as padding, and rows of real tokens, in turns.

    All have the same shapes and no mask, so they do the same operations.
    """
    row, prefix = ground.rows[0], ground.corpora[0][1]
    layers = 2 if ground.dry else 8
    turns, passes = 2 * ground.repeats, 1 if ground.dry else 3
    model = make_model(ground, num_layers=layers, row=row)
    padding = make_dataset(prefix, row, "padding")
    padded = batches(padding, typical_rows(padding, turns))
    whole = make_dataset(prefix, row, "random")
    kinds = {
        "padding of one token": padded,
        "padding of random tokens": [fill(batch) for batch in padded],
        "real tokens": batches(whole, typical_rows(whole, turns)),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    states: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for turn in range(-2, turns):  # the first two warm up
        for kind, held in kinds.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(passes):
                loss_of(model, held[turn], packed=False).backward()
            end.record()
            state = clock_and_watts()  # the device is still at work
            torch.cuda.synchronize()
            if turn >= 0:
                times[kind].append(start.elapsed_time(end) / passes)
                states[kind] += [state] if state else []
    result: dict[str, Any] = {"row": row, "layers": layers, "kinds": {}}
    for kind, taken in times.items():
        clocks = states[kind]
        result["kinds"][kind] = {
            "milliseconds": statistics.mean(taken),
            "error": statistics.stdev(taken) / len(taken) ** 0.5,
            "clock": statistics.mean(clock for clock, _ in clocks) if clocks else None,
            "watts": statistics.mean(watts for _, watts in clocks) if clocks else None,
        }
    ground.save("padding", result | {"ok": True})


def fill(batch: Any) -> Any:
    """The same row of one document with random tokens as its padding, which no loss counts."""
    real = int(batch.real_lengths[0])
    generator = torch.Generator().manual_seed(real)
    tokens = torch.randint(0, 32_000, batch.tokens.shape, generator=generator)
    tokens = tokens.to(batch.tokens)
    tokens[:, :real] = batch.tokens[:, :real]
    return replace(batch, tokens=tokens)
