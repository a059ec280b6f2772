# SPDX-License-Identifier: Apache-2.0
"""Checks the packing check itself on the card: planted bugs, FP8, and whether it leaves a trace."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ground import ROOT, Ground
from trainer import FUSED_LOSS, LOSS, NORM, PRETRAIN, checks_of, pack, start_run

PLANTED = ROOT / "tests" / "megatron" / "pretrain_planted.py"
BUGS = (
    "a row is one document",
    "boundary off by one",
    "later boundary lost",
    "loss averaged by row",
)
"""Of pretrain_planted.py: those that do not need another kernel or several ranks."""
FP8 = "--fp8-format hybrid --fp8-recipe tensorwise"
STEPS = 3
KEYS = ("losses", "grad_norms")

Figures = dict[str, Any]
"""What a run printed."""


def check_start(ground: Ground) -> None:
    """Runs with planted bugs, in FP8, and with and without the check, all at once."""
    row = ground.rows[0] // (1 if ground.dry else 2)
    folder = Path(tempfile.mkdtemp())
    index = pack(ground, ground.corpora[0][1], row, "optimal", folder / "packed")
    flags = f"--train-iters {STEPS} --global-batch-size 4"
    flags += "" if ground.dry else " --num-layers 4"
    kinds: dict[str, tuple[str, Path, dict[str, str]]] = {
        "planted": (f"--packing-check {FUSED_LOSS}", PLANTED, {"PLANTED": ",".join(BUGS)}),
        "checked": (f"--packing-check {FUSED_LOSS}", PRETRAIN, {}),
        "unchecked": (f"--no-packing-check {FUSED_LOSS}", PRETRAIN, {}),
        "again": (f"--no-packing-check {FUSED_LOSS}", PRETRAIN, {}),
    }
    if not ground.dry:
        kinds["fp8"] = (f"--packing-check {FUSED_LOSS} {FP8}", PRETRAIN, {})
    runs = {
        name: start_run(
            ground,
            f"check_{name}",
            index,
            f"{flags} {more}",
            script=script,
            environment=environment,
        )
        for name, (more, script, environment) in kinds.items()
    }
    result: dict[str, Any] = {"row": row, "runs": {}, "planted": {}}
    for name, run in runs.items():
        try:
            text = run.finish(STEPS)
        except RuntimeError as error:
            result["runs"][name] = {"error": str(error)}
        else:
            result["runs"][name] = {
                "packing_check": checks_of(text),
                "losses": LOSS.findall(text),
                "grad_norms": NORM.findall(text),
            }
            found = re.findall(r"PLANTED (.*?): (.*)", text)
            result["planted"] |= dict(found)
        ground.save("check", result)
    result["bugs"] = len(BUGS)
    result["found"] = sum(
        result["planted"].get(bug, "").startswith("the packing check failed") for bug in BUGS
    )
    result |= trace_of(*(result["runs"][name] for name in ("checked", "unchecked", "again")))
    passed = [
        len(result["runs"][name].get("packing_check", ())) == 1
        for name in kinds
        if name not in ("unchecked", "again")
    ]
    result["ok"] = result["found"] == len(BUGS) and result["leaves_no_trace"] and all(passed)
    ground.save("check", result)


def trace_of(checked: Figures, unchecked: Figures, again: Figures) -> dict[str, Any]:
    """Compare a run that was checked with two that were not.

    Kernels that add in any order make steps differ after the first one's loss.

    Returns:
        ``differs``, ``repeats``: the largest relative difference of a loss or gradient norm between
        a run with the check and one without, and between two without; ``leaves_no_trace``.
    """
    counts = {len(figures.get(key, ())) for figures in (checked, unchecked, again) for key in KEYS}
    if counts != {STEPS}:  # one ended early, or printed numbers that are none
        return {"leaves_no_trace": False}

    def distance(one: Figures, other: Figures) -> float:
        return max(
            abs(float(a) - float(b)) / max(abs(float(b)), 1e-30)
            for key in KEYS
            for a, b in zip(one[key], other[key], strict=True)
        )

    differs, repeats = distance(checked, unchecked), distance(again, unchecked)
    same_start = checked["losses"][0] == unchecked["losses"][0] == again["losses"][0]
    leaves_no_trace = same_start and differs <= 4 * repeats
    return {"differs": differs, "repeats": repeats, "leaves_no_trace": leaves_no_trace}
