# SPDX-License-Identifier: Apache-2.0
"""Measures attention over packed rows against the time predicted from segment lengths."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from attention_checks import fused_attention, random_qkv, torch_attention
from ground import Ground, batches, make_dataset, milliseconds, squares, start_megatron


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


def forward_and_backward(
    attend: Any, tensors: list[torch.Tensor], offsets: torch.Tensor, longest: int
) -> None:
    """Attend, and the gradients of queries, keys and values."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    attend(*leaves, offsets, longest).backward(tensors[3])
