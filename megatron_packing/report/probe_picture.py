# SPDX-License-Identifier: Apache-2.0
"""Draws what a probe measured: a cell for each layer and head."""

from __future__ import annotations

from pathlib import Path

from megatron_packing.errors import InputError, missing
from megatron_packing.probe.result import EARLIER, END_TOKENS, ProbeResult, Variant

_ENDINGS = (".svg", ".png", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be drawn, before the work starts."""
    if path.suffix not in _ENDINGS:
        raise InputError(f"--picture is {path}; its name must end in {', '.join(_ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--picture is {path}, in a folder that does not exist; make the folder")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing("--picture", str(error.name), "probe") from error


def draw_probe(result: ProbeResult, path: Path) -> None:
    """Draw a grid of heat maps: neighbors and positions down, end tokens across.

    Args:
        result: What was measured.
        path: A file; its ending decides the format.
    """
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys((o.variant.neighbors, o.variant.positions) for o in result.variants))
    columns = list(dict.fromkeys(one.variant.end_token for one in result.variants))
    by_variant = {one.variant: one for one in result.variants}
    layers, heads, _ = result.alone.shares.shape
    figure = Figure(figsize=(1.5 + 3.2 * len(columns), 1.2 + 2.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for axes_of_row, (neighbors, positions) in zip(grid, rows, strict=True):
        for axes, token in zip(axes_of_row, columns, strict=True):
            one = by_variant[Variant(neighbors=neighbors, positions=positions, end_token=token)]
            leak = one.shares[:, :, EARLIER] + one.shares[:, :, END_TOKENS]
            image = axes.imshow(leak, vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="lower")
            end = "no end token" if token is None else f"end token {token}"
            change, _ = one.loss_change(result.alone)
            axes.set_title(
                f"{neighbors} neighbors, positions {positions}\n"
                f"{end}: {leak.mean():.2f}, loss {change:+.2f}",
                fontsize=8,
            )
            axes.set_xticks(range(0, heads, max(1, heads // 8)))
            axes.set_yticks(range(0, layers, max(1, layers // 8)))
    for axes in grid[-1]:
        axes.set_xlabel("head")
    for axes in grid[:, 0]:
        axes.set_ylabel("layer")
    bar = figure.colorbar(image, ax=grid, shrink=0.6)
    bar.set_label("share of attention on earlier documents")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=150)
