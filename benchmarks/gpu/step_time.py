# SPDX-License-Identifier: Apache-2.0
"""Measures what a step costs with a dataloader, CUDA graphs, wide cu_seqlens and FP8."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ground import (
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

    Every row has ``cu_seqlens`` of one width and one ``max_seqlen``, which is a number in the
    captured call, so only values of tensors change.
    """
    row, prefix = ground.rows[0], ground.corpora[0][1]
    layers = 2 if ground.dry else 8
    dataset = make_dataset(prefix, row, "optimal", max_documents_per_pack=64)
    model = make_model(ground, num_layers=layers, row=row)
    parameters = list(model.parameters())

    numbers = list(range(4))
    eager = batches(dataset, numbers)
    static = batches(dataset, [0])[0]

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
