# SPDX-License-Identifier: Apache-2.0
"""Measures the card: versions, peak rates, time by kernel, and host waits in a step."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ground import (
    PEAKS,
    WAYS,
    Ground,
    batches,
    loss_of,
    make_dataset,
    make_model,
    milliseconds,
)


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
    """How often the host waits for the device in get_batch and a step: torch warns at each.

    And how long get_batch takes while the device has nothing to do.
    """
    from torch.utils.data import DataLoader, Subset

    from megatron_packing.megatron.batch import get_batch

    row, prefix = ground.rows[0], ground.corpora[0][1]
    if ground.dry:
        ground.save("waits", {"ok": True, "skipped": "there is no device to wait for"})
        return
    model = make_model(ground, num_layers=4, row=row)
    dataset = Subset(make_dataset(prefix, row, "optimal"), range(24))
    loader = iter(DataLoader(dataset, batch_size=1, num_workers=2, pin_memory=True))
    loss_of(model, get_batch(loader), packed=True).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = get_batch(loader)
        of_batch = len(caught)
        loss_of(model, batch, packed=True).backward()
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    alone = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        get_batch(loader)
        alone.append((time.perf_counter() - began) * 1e3)
    result = {
        "layers": 4,
        "waits": len(places),
        "places": places,
        "warnings_of_get_batch": of_batch,
    }
    result["get_batch_milliseconds"] = statistics.median(alone)
    ground.save("waits", result | {"ok": not places})
