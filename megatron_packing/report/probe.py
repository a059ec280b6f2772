# SPDX-License-Identifier: Apache-2.0
"""Prints what a probe measured."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from megatron_packing.probe.result import (
    EARLIER,
    END_TOKENS,
    ROW_START,
    TARGETS,
    ProbeResult,
    VariantResult,
)


def describe_probe(result: ProbeResult) -> Group:
    """Lay out a table, and what it says about end tokens."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 columns
    for heading in ("neighbors", "positions", "end"):
        table.add_column(heading, no_wrap=True)
    for heading in ("loss", "change", "earlier", "start", "ends", "layers"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("none", "", "", f"{result.alone.losses.mean():.3f}")
    for one in result.variants:
        change, error = one.loss_change(result.alone)
        means = one.shares.mean(axis=(0, 1))
        by_layer = one.earlier_by_layer
        table.add_row(
            one.variant.neighbors,
            one.variant.positions,
            "-" if one.variant.end_token is None else str(one.variant.end_token),
            f"{one.losses.mean():.3f}",
            f"{change:+.3f}±{error:.3f}",
            f"{means[EARLIER]:.3f}",
            f"{means[ROW_START]:.3f}",
            f"{means[END_TOKENS]:.3f}",
            f"{by_layer.min():.2f}-{by_layer.max():.2f}",
        )
    layers, heads, _ = result.alone.shares.shape
    title = (
        f"{result.checkpoint}: {result.num_documents} documents, each after "
        f"{result.documents_per_row - 1} others without a mask"
    )
    even = [_leak(one.uniform) for one in result.variants]
    legend = (
        f"change: loss minus loss alone, with the standard error over documents. Shares of the "
        f"document's attention, means of {layers} layers x {heads} heads: earlier: on earlier "
        f"documents; start: on the row's first token; ends: on end tokens; layers: earlier and "
        f"ends in the layers with the least and the most. If all tokens got equal attention, "
        f"earlier and ends would have {min(even):.2f} to {max(even):.2f}."
    )
    return Group(title, table, legend, *_effects_of_end_tokens(result))


def probe_record(result: ProbeResult) -> dict[str, Any]:
    """Return the record for ``--json``."""
    return {
        "checkpoint": result.checkpoint,
        "num_documents": result.num_documents,
        "documents_per_row": result.documents_per_row,
        "targets": list(TARGETS),
        "alone": _record(result.alone),
        "variants": [
            {
                "neighbors": one.variant.neighbors,
                "positions": one.variant.positions,
                "end_token": one.variant.end_token,
                "loss_change": one.loss_change(result.alone)[0],
                "standard_error": one.loss_change(result.alone)[1],
                **_record(one),
            }
            for one in result.variants
        ],
    }


def _record(one: VariantResult) -> dict[str, Any]:
    return {
        "loss": float(one.losses.mean()),
        "uniform": one.uniform.round(4).tolist(),
        "shares": one.shares.round(4).tolist(),
    }


def _effects_of_end_tokens(result: ProbeResult) -> list[str]:
    """Say for each end token how much less attention the documents before it get."""
    by_variant = {one.variant: one for one in result.variants}
    lines = []
    for token in dict.fromkeys(one.variant.end_token for one in result.variants):
        if token is None:
            continue
        kept = [
            _leak(one.shares.mean(axis=(0, 1)))
            / _leak(by_variant[_without(one)].shares.mean(axis=(0, 1)))
            for one in result.variants
            if one.variant.end_token == token
        ]
        lines.append(
            f"With the end token {token}, earlier documents and their end tokens get "
            f"{min(kept):.0%} to {max(kept):.0%} of what earlier documents get without it."
        )
    return lines


def _without(one: VariantResult) -> Any:
    return type(one.variant)(neighbors=one.variant.neighbors, positions=one.variant.positions)


def _leak(shares: Any) -> float:
    """Return the attention on earlier documents and their end tokens, without the row's first."""
    return float(shares[EARLIER] + shares[END_TOKENS])
