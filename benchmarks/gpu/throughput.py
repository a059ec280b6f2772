# SPDX-License-Identifier: Apache-2.0
"""Measures real tokens per second of padded, random and packed rows."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ground import (
    WAYS,
    Ground,
    batches,
    free_memory,
    loss_of,
    make_dataset,
    make_model,
    squares,
)
from report import faster_and_share

from megatron_packing import Corpus
from megatron_packing.flops.model import ModelShape


def measure_rows(ground: Ground) -> None:
    """Real tokens a second of padded, random and packed rows, in turns on one model."""
    result: dict[str, Any] = {"settings": [], "ok": True}
    for row in ground.rows:
        for name, prefix in ground.corpora:
            layers = layers_that_fit(ground, row)
            while True:
                try:
                    found = _measure_setting(ground, row, prefix, layers)
                    break
                except torch.cuda.OutOfMemoryError:
                    if layers == 1:
                        raise
                layers //= 2
                free_memory()
            result["settings"].append({"corpus": name, "row": row, "layers": layers} | found)
            ground.save("rows", result)
            free_memory()
    share = [faster_and_share("packed", setting["ways"])[1] for setting in result["settings"]]
    result["share_of_the_ratio_of_rows"] = share
    result["ok"] = ground.dry or min(share) >= 0.95
    ground.save("rows", result)


def _measure_setting(ground: Ground, row: int, prefix: Any, layers: int) -> dict[str, Any]:
    model = make_model(ground, num_layers=layers, row=row)
    shape = replace(ground.shape, num_layers=layers)
    held, found = {}, {}
    for way, (strategy, _) in WAYS.items():
        dataset = make_dataset(prefix, row, strategy)
        figures = dataset.index.figures
        held[way] = batches(dataset, typical_rows(dataset, ground.repeats))
        found[way] = {
            "rows": len(dataset.index),
            "real_tokens": figures.num_positions,
            "milliseconds": [],
            "clock_and_watts": [],
            "flops": [],
            "peak_gigabytes": 0.0,
        }
    for turn in range(-1, ground.repeats):  # the first warms up
        for way, (_, packed) in WAYS.items():
            batch, here = held[way][turn], found[way]
            torch.cuda.reset_peak_memory_stats()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            loss_of(model, batch, packed=packed).backward()
            end.record()
            state = clock_and_watts()  # the device is still at work
            torch.cuda.synchronize()
            if turn < 0:
                continue
            here["clock_and_watts"].append(state)
            peak = torch.cuda.max_memory_allocated() / 1e9
            here["peak_gigabytes"] = max(here["peak_gigabytes"], peak)
            here["milliseconds"].append(start.elapsed_time(end))
            work = squares(batch) if packed else row**2
            here["flops"].append(shape.epoch_flops(1, row, work))
    for way, here in found.items():
        useful = useful_flops(prefix, row, shape, cut=way == "random")
        seconds = sum(here["milliseconds"]) / 1e3
        here["seconds_per_row"] = statistics.mean(here["milliseconds"]) / 1e3
        tokens = here["real_tokens"] / here["rows"]
        here["tokens_per_second"] = tokens / here["seconds_per_row"]
        here["computed_flops_per_second"] = sum(here.pop("flops")) / seconds
        here["useful_flops_per_second"] = useful / (here["seconds_per_row"] * here["rows"])
    del model, held
    return {"ways": found}


def layers_that_fit(ground: Ground, row: int) -> int:
    """A cautious guess from the card's memory; ``measure_rows`` halves it if it is too many.

    A layer keeps its weights and gradients, and of every position about 17 vectors of the hidden
    size and 4 of the MLP's in half precision for the backward pass.
    """
    shape = ground.shape
    if ground.dry:
        return shape.num_layers
    keys = shape.hidden_size // shape.num_heads * shape.num_query_groups
    weights = shape.hidden_size * (2 * shape.hidden_size + 2 * keys + 3 * shape.ffn_hidden_size)
    layer = 4 * weights + 2 * row * (12 * shape.hidden_size + 4 * shape.ffn_hidden_size)
    logits = shape.hidden_size * shape.vocabulary_size * 8 + 4 * row * shape.vocabulary_size
    free = 0.9 * torch.cuda.get_device_properties(0).total_memory - logits
    return max(1, min(shape.num_layers, int(free / layer)))


def typical_rows(dataset: Any, count: int) -> list[int]:
    """Rows from the least to the most attention, as many of each kind as the epoch has."""
    work = [int((dataset.rows.segment_lengths(i) ** 2).sum()) for i in range(len(dataset.index))]
    ranks = (np.arange(count) + 0.5) / count * len(work)
    chosen: list[int] = np.argsort(work, kind="stable")[ranks.astype(int)].tolist()
    return chosen


def useful_flops(prefix: Any, row: int, shape: ModelShape, *, cut: bool) -> int:
    """Operations of an epoch's real tokens, with attention within documents, and no padding.

    Args:
        prefix: Of the corpus.
        row: Positions of a row; longer documents are truncated to it.
        shape: Of the model.
        cut: Longer documents give several pieces instead.
    """
    lengths = np.asarray(Corpus(prefix).num_tokens, np.int64) - 1
    pieces = np.minimum(lengths, row)
    squares = int((pieces**2).sum())
    if cut:
        whole, rest = np.divmod(lengths, row)
        squares = int((whole * row**2 + rest**2).sum())
        pieces = lengths
    linear = shape.linear_flops_per_position * int(pieces.sum())
    return linear + shape.attention_flops_per_square * squares


def clock_and_watts() -> tuple[float, float] | None:
    """The card's clock in MHz and its power; None without NVIDIA's package nvidia-ml-py."""
    try:
        return torch.cuda.clock_rate(), torch.cuda.power_draw() / 1e3
    except ModuleNotFoundError:
        return None
