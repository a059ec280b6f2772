# SPDX-License-Identifier: Apache-2.0
"""Checks a GPTModel on packed rows against the same documents alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from ground import (
    Ground,
    batches,
    loss_of,
    losses_of,
    make_dataset,
    make_model,
    packs_of_several,
)


def check_model(ground: Ground) -> None:
    """A whole GPTModel: packed rows against documents alone, and what a document sees of others.

    Rounding in half precision depends on the shapes that kernels see, so packed and alone are not
    equal in bits. The comparison with documents that do see others shows how large a leak would be.
    """
    row = ground.check_row
    dataset = make_dataset(ground.corpora[0][1], row, "optimal")
    model = make_model(ground, num_layers=4 if not ground.dry else 2, row=row)
    parameters = list(model.parameters())
    result: dict[str, Any] = {"row": row, "documents": 0, "loss": 0.0, "leaking_loss": 0.0}
    result |= {"gradient": 0.0, "leaking_gradient": 0.0, "bits_changed": 0}
    result |= {"leaking_bits_changed": 0, "bits_compared": 0}

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return [g.float() for g in torch.autograd.grad(loss, parameters, allow_unused=True)]

    def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
        square = sum(((a - b) ** 2).sum() for a, b in zip(found, expected, strict=True))
        size = sum((b**2).sum() for b in expected)
        return float((square / size).sqrt())

    for pack in packs_of_several(dataset, 2):
        (batch,) = batches(dataset, [pack])
        trained = max(1.0, float((batch.loss_mask != 0).sum()))
        offsets = batch.packed_seq_params.cu_seqlens_q.tolist()
        segments = [(a, b) for a, b in pairwise(offsets) if batch.loss_mask[0, a:b].any()]
        alone = torch.zeros((), device=batch.loss_mask.device)
        for a, b in segments:
            part = slice(a, b)
            losses = model(
                batch.tokens[:, part],
                batch.position_ids[:, part],
                None,
                labels=batch.labels[:, part],
            )
            alone = alone + (losses.float().view(-1) * batch.loss_mask[0, part]).sum()
        expected = gradients(alone)
        for name, packed in (("", True), ("leaking_", False)):
            loss = loss_of(model, batch, packed=packed)
            difference = abs(float((loss - alone).detach())) / trained
            result[f"{name}loss"] = max(result[f"{name}loss"], difference)
            found = distance(gradients(loss), expected)
            result[f"{name}gradient"] = max(result[f"{name}gradient"], found)
        result["documents"] += len(segments)
        # The last document: the first sees no other even without a mask.
        result["bits_compared"] += segments[-1][1] - segments[-1][0]
        for name, packed in (("bits_changed", True), ("leaking_bits_changed", False)):
            result[name] += _bits_changed_by_others(model, batch, segments[-1], packed=packed)
    result["ok"] = (
        result["bits_changed"] == 0
        and result["leaking_bits_changed"] > 0
        and result["loss"] < 1e-2 < result["leaking_gradient"]
        and result["gradient"] < 2e-2
    )
    ground.save("model", result)


def _bits_changed_by_others(
    model: Any, batch: Any, segment: tuple[int, int], *, packed: bool
) -> int:
    """Change every token but those of one document and count its losses that changed."""
    a, b = segment
    with torch.no_grad():
        before = losses_of(model, batch, packed=packed)[0, a:b]
        tokens = (batch.tokens + 17) % 1000
        tokens[:, a:b] = batch.tokens[:, a:b]
        after = losses_of(model, replace(batch, tokens=tokens), packed=packed)[0, a:b]
    return int((before != after).sum())
