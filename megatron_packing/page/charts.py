# SPDX-License-Identifier: Apache-2.0
"""Draws charts with matplotlib as SVG that a page can hold.

Colors are drawn as stand-ins and become CSS variables, so that a page has them in the light and in
the dark. Hatches and markers tell series apart without color.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _RULE = "#000001", "#000002"
_SERIES = tuple(f"#0000a{number}" for number in range(9))
_VARIABLES = {_INK: "--ink", _RULE: "--rule"} | {
    color: f"--s{number}" for number, color in enumerate(_SERIES)
}
_HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "++", "oo", "--", "**")
_MARKERS = "osD^vPX*p"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "megatron-packing",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "hatch.color": _INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def require_matplotlib() -> None:
    """Refuse in one sentence where matplotlib is not installed.

    Raises:
        InputError: It is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing("megatron-packing report", error.name or "matplotlib", "report") from error


def draw_histogram(lengths: NDArray[np.integer], rows: Sequence[int]) -> str:
    """Draw how many documents, and how many positions, are of which length.

    Args:
        lengths: Positions of each document, shape ``(num_documents,)``.
        rows: Sequence lengths to mark.
    """
    most = max(int(lengths.max()), *rows)
    edges = np.unique(np.geomspace(max(1, int(lengths.min())), most + 1, 41).round())
    if len(edges) < 2:
        edges = np.array([edges[0], edges[0] + 1])
    figure = _figure(9, 3.6)
    axes = figure.subplots(2, 1, sharex=True)
    for number, (axis, weights, name) in enumerate(
        zip(axes, (None, lengths), ("documents", "positions"), strict=True)
    ):
        counts, _ = np.histogram(lengths, edges, weights=weights)
        axis.bar(
            edges[:-1],
            counts / counts.sum() * 100,
            np.diff(edges),
            align="edge",
            color=_SERIES[number],
            edgecolor="none",
        )
        axis.set_ylabel(f"% of {name}")
        axis.set_xscale("log")
        for row in rows:
            axis.axvline(row, color=_INK, linestyle="--", linewidth=1)
    for row in rows:
        axes[0].annotate(
            f"{row:,}",
            (row, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
    axes[1].set_xlabel("positions of a document (dashed: rows)")
    axes[1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return _svg(figure)


def draw_shares(bars: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Draw horizontal bars, each divided into named parts.

    Args:
        bars: For each bar its parts, in percent.
        label: What the axis shows.
    """
    figure = _figure(9, 0.9 + 0.42 * len(bars))
    axis = figure.subplots()
    names = list(bars)
    parts = list(next(iter(bars.values())))
    left = np.zeros(len(names))
    for number, part in enumerate(parts):
        widths = np.array([bars[name][part] for name in names])
        if widths.max() < 0.05:
            continue
        axis.barh(
            names,
            widths,
            left=left,
            height=0.66,
            color=_SERIES[number],
            hatch=_HATCHES[number],
            edgecolor=_INK,
            linewidth=0.5,
            label=part,
        )
        left += widths
    axis.invert_yaxis()
    axis.set_xlim(0, max(100.0, float(left.max())))
    axis.set_xlabel(label)
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=4, handlelength=2.2, handleheight=1.1, fontsize=9)
    return _svg(figure)


def draw_lines(
    lines: Mapping[str, Sequence[float]], rows: Sequence[int], label: str, *, log: bool = False
) -> str:
    """Draw a line for each name over sequence lengths.

    Args:
        lines: For each name a value at each sequence length.
        rows: The sequence lengths.
        label: What the values are.
        log: Whether their axis is logarithmic.
    """
    figure = _figure(9, 3.2)
    axis = figure.subplots()
    for number, (name, values) in enumerate(lines.items()):
        axis.plot(
            rows,
            values,
            color=_SERIES[number],
            marker=_MARKERS[number],
            linewidth=1.6,
            markersize=6,
            label=name,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(rows), [f"{row:,}" for row in rows])
    axis.minorticks_off()
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("positions in a row")
    axis.set_ylabel(label)
    axis.margins(x=0.04)
    figure.legend(loc="outside right upper", fontsize=9)
    return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_SETTINGS)
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as an ``svg`` element that scales with the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # Ids that nothing refers to are the same in every figure.
    text = re.sub(r' id="[a-zA-Z]+[\w.]*_\d+"', "", text)
    text = re.sub(r"\n\s*", "\n", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text
