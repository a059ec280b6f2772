# SPDX-License-Identifier: Apache-2.0
"""The stages that measure: the card's ceilings, rows of every kind, attention, loading, graphs."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from checks import fused_attention, random_qkv, torch_attention
from ground import (
    PEAKS,
    Ground,
    batches,
    free_memory,
    loss_of,
    make_dataset,
    make_model,
    milliseconds,
    relative_error,
    start_megatron,
)
from report import faster_and_share

from megatron_packing import Corpus
from megatron_packing.flops import ModelShape

WAYS = {"padded": ("padding", False), "random": ("random", False), "packed": ("optimal", True)}
"""Of each way to fill rows: the strategy, and whether documents see themselves alone."""


def measure_machine(ground: Ground) -> None:
    """Versions, and what the card reaches at best: a large product, a large copy."""
    size = 256 if ground.dry else 8_192
    a, b = (torch.randn(size, size).cuda().to(ground.dtype) for _ in range(2))
    product = milliseconds(lambda: a @ b, 10 if ground.dry else 2_000)  # until the card is warm
    large = torch.empty(1 << (16 if ground.dry else 30), dtype=torch.uint8).cuda()
    copy = milliseconds(large.clone, 5)
    versions = {}
    for package in (
        "megatron-packing",
        "megatron-core",
        "transformer-engine-torch",
        "torch",
        "triton",
        "numpy",
        "nvidia-cudnn-cu13",
        "nvidia-cudnn-cu12",
    ):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    name = torch.cuda.get_device_name(0)
    memory = torch.cuda.get_device_properties(0).total_memory
    result = {
        "card": name,
        "gigabytes": memory / 1e9,
        "cuda": torch.version.cuda,
        "versions": versions,
        "cores": len(os.sched_getaffinity(0)),
        "product_flops": 2 * size**3 / product * 1e3,
        "copy_bytes": 2 * large.numel() / copy * 1e3,
        "data_sheet_flops": next((peak for part, peak in PEAKS.items() if part in name), None),
    }
    ground.save("machine", result | {"ok": True})


def squares(batch: Any) -> int:
    """The sum of squared lengths of what attends in a packed row."""
    lengths = torch.diff(batch.packed_seq_params.cu_seqlens_q.long().cpu())
    return int((lengths**2).sum())


def clock_and_watts() -> tuple[float, float] | None:
    """The card's clock in MHz and its power; None without NVIDIA's package nvidia-ml-py."""
    try:
        return torch.cuda.clock_rate(), torch.cuda.power_draw() / 1e3
    except ModuleNotFoundError:
        return None


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


def forward_and_backward(
    attend: Any, tensors: list[torch.Tensor], offsets: torch.Tensor, longest: int
) -> None:
    """Attend, and the gradients of queries, keys and values."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    attend(*leaves, offsets, longest).backward(tensors[3])


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


def measure_attention(ground: Ground) -> None:
    """Attention over packed rows: its time against what the sum of squared lengths predicts."""
    result: dict[str, Any] = {"rows": [], "ok": True}
    ways = {"fused": fused_attention(ground), "torch": torch_attention(ground)}
    shape = replace(ground.shape, num_layers=1)
    start_megatron(ground)
    for row in ground.rows:
        dataset = make_dataset(ground.corpora[-1][1], row, "optimal")
        chosen = batches(dataset, list(range(2 * ground.repeats)))
        tensors = [tensor.cuda() for tensor in random_qkv(ground, row)]
        whole = torch.tensor([0, row], dtype=torch.int32).cuda()
        for name, attend in ways.items():
            both_ways = partial(forward_and_backward, attend, tensors)
            full = milliseconds(partial(both_ways, whole, row), ground.repeats, 8)
            packs = []
            for batch in chosen:
                packed = batch.packed_seq_params
                offsets, longest = packed.cu_seqlens_q, packed.max_seqlen_q
                took = milliseconds(partial(both_ways, offsets, longest), 3, 8)
                predicted = full * squares(batch) / row**2
                packs.append({"milliseconds": took, "predicted": predicted})
            took_all, predicted_all = (
                np.array([pack[key] for pack in packs]) for key in ("milliseconds", "predicted")
            )
            slope, floor = np.polyfit(predicted_all, took_all, 1)
            left = took_all - (slope * predicted_all + floor)
            spread = float(np.sum((took_all - took_all.mean()) ** 2)) or 1.0
            result["rows"].append(
                {
                    "row": row,
                    "kernel": name,
                    "whole_row_milliseconds": full,
                    "whole_row_flops": shape.attention_flops_per_square * row**2 / full * 1e3,
                    "packs": packs,
                    "measured_over_predicted": float(took_all.sum() / predicted_all.sum()),
                    "slope": float(slope),
                    "fixed_milliseconds": float(floor),
                    "explained": 1 - float(np.sum(left**2)) / spread,
                }
            )
            ground.save("attention_time", result)


def measure_loading(ground: Ground) -> None:
    """Steps whose rows come from a dataloader against steps whose rows lie on the device."""
    from torch.utils.data import DataLoader, Subset

    from megatron_packing.megatron.batch import get_batch

    row, prefix = ground.rows[0], ground.corpora[0][1]
    steps = 3 if ground.dry else 20
    dataset = make_dataset(prefix, row, "optimal")
    model = make_model(ground, num_layers=2 if ground.dry else 4, row=row)
    numbers = list(range(steps + 2))
    ready = batches(dataset, numbers)
    result: dict[str, Any] = {"row": row, "steps": steps, "layers": 2 if ground.dry else 4}

    def run(source: Any) -> dict[str, float]:
        waited, began = 0.0, 0.0
        for step in numbers:
            if step == 2:  # after warming up
                torch.cuda.synchronize()
                waited, began = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = source(step)
            waited += time.perf_counter() - asked
            loss_of(model, batch, packed=True).backward()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return {
            "milliseconds_per_step": seconds / steps * 1e3,
            "host_milliseconds_in_get_batch": waited / steps * 1e3,
        }

    for name, workers in (("on the device", None), ("no worker", 0), ("2 workers", 2)):
        if workers is None:
            result[name] = run(ready.__getitem__)
            continue
        loader = DataLoader(
            Subset(dataset, numbers), batch_size=1, num_workers=workers, pin_memory=not ground.dry
        )
        iterator = iter(loader)
        result[name] = run(lambda _, iterator=iterator: get_batch(iterator))
        del iterator, loader
    alone = [time.perf_counter()]
    for number in numbers:
        dataset[number]
        alone.append(time.perf_counter())
    result["row_milliseconds"] = statistics.median(np.diff(alone)) * 1e3
    slower = result["2 workers"]["milliseconds_per_step"]
    result["slower"] = slower / result["on the device"]["milliseconds_per_step"]
    result["ok"] = ground.dry or result["slower"] < 1.02
    ground.save("loading", result)


def measure_graph(ground: Ground) -> None:
    """A CUDA graph of forward and backward, replayed on other packs of the same fixed shapes.

    Every row has ``cu_seqlens`` of one width, so only values change; ``max_seqlen`` is a number
    in the captured call and must hold for every pack: the row's length does.
    """
    row, prefix = ground.rows[0], ground.corpora[0][1]
    layers = 2 if ground.dry else 8
    dataset = make_dataset(prefix, row, "optimal", max_documents_per_pack=64)
    model = make_model(ground, num_layers=layers, row=row)
    parameters = list(model.parameters())

    def fixed(batch: Any) -> Any:
        packed = replace(batch.packed_seq_params, max_seqlen_q=row, max_seqlen_kv=row)
        return replace(batch, packed_seq_params=packed)

    numbers = list(range(4))
    eager = [fixed(batch) for batch in batches(dataset, numbers)]
    static = fixed(batches(dataset, [0])[0])

    def step() -> torch.Tensor:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss = loss_of(model, static, packed=True)
        loss.backward()
        return loss.detach()

    def load(batch: Any) -> None:
        for name in ("tokens", "position_ids", "labels", "loss_mask", "real_lengths"):
            getattr(static, name).copy_(getattr(batch, name))
        for name in ("cu_seqlens_q", "cu_seqlens_kv"):
            getattr(static.packed_seq_params, name).copy_(getattr(batch.packed_seq_params, name))

    def differences(run: Any) -> dict[str, float]:
        found = {"loss": 0.0, "gradient": 0.0}
        for batch, (loss, gradient) in zip(eager, expected, strict=True):
            load(batch)
            again = run()
            again = captured if again is None else again
            found["loss"] = max(found["loss"], relative_error(again, loss))
            error = relative_error(parameters[1].grad, gradient)
            found["gradient"] = max(found["gradient"], error)
        return found

    expected, captured = [], None
    for batch in eager:
        load(batch)
        loss = step()
        expected.append((loss.clone(), parameters[1].grad.clone()))
    result: dict[str, Any] = {
        "row": row,
        "layers": layers,
        "width": len(static.packed_seq_params.cu_seqlens_q),
        "eager_milliseconds": milliseconds(step, ground.repeats),
        "eager_again": differences(step),  # kernels that add in any order are not equal in bits
    }
    ground.save("graph", result)
    if ground.dry:
        replay, captured = step, step()
    else:
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            captured = step()
        replay = graph.replay
    result["replayed"] = differences(replay)
    result["graph_milliseconds"] = milliseconds(replay, ground.repeats)
    result["ok"] = (
        result["replayed"]["loss"] <= 1e-6 + 2 * result["eager_again"]["loss"]
        and result["replayed"]["gradient"] <= 1e-6 + 2 * result["eager_again"]["gradient"]
    )
    ground.save("graph", result)


def measure_width(ground: Ground) -> None:
    """What a wider ``cu_seqlens`` costs, its tail being empty segments, by kind of rotation."""
    row, prefix = ground.rows[0], ground.corpora[0][1]
    layers = 2 if ground.dry else 4
    start_megatron(ground)
    result: dict[str, Any] = {"row": row, "layers": layers, "fused": {}, "unfused": {}}
    (batch,) = batches(make_dataset(prefix, row, "optimal"), [1])
    packed = batch.packed_seq_params
    for kind in ("fused", "unfused"):
        fused = kind == "fused" and not ground.dry
        model = make_model(ground, num_layers=layers, row=row, apply_rope_fusion=fused)
        for width in (64, 128) if ground.dry else (64, 512, 4_096):
            if width < len(packed.cu_seqlens_q):
                continue
            offsets = torch.full((width,), row, dtype=torch.int32).cuda()
            offsets[: len(packed.cu_seqlens_q)] = packed.cu_seqlens_q
            wide = replace(packed, cu_seqlens_q=offsets, cu_seqlens_kv=offsets)
            wider = replace(batch, packed_seq_params=wide)
            took = milliseconds(lambda m=model, w=wider: loss_of(m, w, packed=True).backward(), 3)
            result[kind][str(width)] = took
            ground.save("width", result)
        del model
        free_memory()
    ground.save("width", result | {"ok": True})


def measure_fp8(ground: Ground) -> None:
    """Linear layers in FP8 over packed rows: the loss beside that of bf16, and the time."""
    if ground.dry:
        ground.save("fp8", {"ok": True, "skipped": "there is no FP8 on a CPU"})
        return
    row, prefix = ground.rows[0], ground.corpora[0][1]
    start_megatron(ground)
    rows = batches(make_dataset(prefix, row, "optimal"), [1, 2, 3])
    result: dict[str, Any] = {"row": row, "layers": 8}
    for kind, changes in {
        "bf16": {},
        "fp8": {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    }.items():
        model = make_model(ground, num_layers=8, row=row, **changes)
        if kind == "bf16":
            weights = [parameter.detach().clone() for parameter in model.parameters()]
        else:
            with torch.no_grad():
                for parameter, weight in zip(model.parameters(), weights, strict=True):
                    parameter.copy_(weight)
        losses = []
        for batch in rows:
            loss = loss_of(model, batch, packed=True)
            loss.backward()
            losses.append(float(loss.detach() / batch.loss_mask.sum()))
        took = milliseconds(
            lambda m=model: loss_of(m, rows[0], packed=True).backward(), ground.repeats
        )
        result[kind] = {"losses": losses, "milliseconds": took}
        ground.save("fp8", result)
        del model
        free_memory()
    apart = [
        abs(a - b) / b
        for a, b in zip(result["fp8"]["losses"], result["bf16"]["losses"], strict=True)
    ]
    ground.save("fp8", result | {"largest_difference": max(apart), "ok": max(apart) < 1e-2})


def name_kernels(ground: Ground) -> None:
    """Which kernels a step of each way spends its time in, and how much of it is attention."""
    if ground.dry:
        ground.save("kernels", {"ok": True, "skipped": "there are no kernels on a CPU"})
        return
    from torch.profiler import ProfilerActivity, profile

    row, prefix = ground.rows[0], ground.corpora[0][1]
    model = make_model(ground, num_layers=4, row=row)
    result: dict[str, Any] = {"row": row, "layers": 4, "ways": {}}
    for way, (strategy, packed) in WAYS.items():
        (batch,) = batches(make_dataset(prefix, row, strategy), [1])
        loss_of(model, batch, packed=packed).backward()
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            loss_of(model, batch, packed=packed).backward()
            torch.cuda.synchronize()
        events = sorted(profiled.key_averages(), key=lambda e: -e.self_device_time_total)
        result["ways"][way] = [
            {"kernel": event.key[:90], "calls": event.count, "us": event.self_device_time_total}
            for event in events[:25]
        ]
        ground.save("kernels", result)
    ground.save("kernels", result | {"ok": True})


def count_waits(ground: Ground) -> None:
    """How often the host waits for the device in a step: torch warns at each."""
    import warnings

    row, prefix = ground.rows[0], ground.corpora[0][1]
    if ground.dry:
        ground.save("waits", {"ok": True, "skipped": "there is no device to wait for"})
        return
    model = make_model(ground, num_layers=4, row=row)
    (batch,) = batches(make_dataset(prefix, row, "optimal"), [1])
    loss_of(model, batch, packed=True).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss_of(model, batch, packed=True).backward()
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    ground.save("waits", {"layers": 4, "waits": len(places), "places": places, "ok": not places})
