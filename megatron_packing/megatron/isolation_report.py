# SPDX-License-Identifier: Apache-2.0
"""Writes what the packing check found: one line of the log, or the sentence that stops the run."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_packing.counted import counted
from megatron_packing.isolation.tolerances import Tolerances
from megatron_packing.megatron.isolation_judge import Fault
from megatron_packing.megatron.isolation_run import Findings


@dataclass(frozen=True, slots=True)
class Figures:
    """The largest values that a check saw."""

    moved: float
    """How far losses moved when every second document changed."""
    alone: float
    """How far losses differ from those of documents alone."""
    gradient: float | None
    """The share of a document's gradient that another got; None if it was not looked at."""

    @classmethod
    def of(cls, findings: Findings) -> Figures:
        """Take them from what a check saw."""
        by_kind: dict[str, list[float]] = {}
        for name, one in findings.comparisons.items():
            kind = name.split()[0]
            of_losses = one.moved[:-1] if kind == "gradient" else one.moved[-1]
            by_kind.setdefault(kind, []).append(float(of_losses.max()))
        gradients = by_kind.get("gradient")
        return cls(
            moved=max(by_kind["replaced"]),
            alone=max(by_kind["alone"]),
            gradient=None if gradients is None else max(gradients),
        )


def describe_findings(findings: Findings, tolerances: Tolerances, seconds: float) -> str:
    """Return the line of a check that found nothing wrong.

    Args:
        findings: What it saw.
        tolerances: What is no fault.
        seconds: What it took.
    """
    figures = Figures.of(findings)
    noise = float(findings.comparisons["again"].moved[-1].max())
    num_alone = sum(name.startswith("alone") for name in findings.comparisons)
    line = (
        f"> packing check: {counted(len(findings.layout.documents), 'document')} of a row are "
        f"apart: losses moved by {figures.moved:.1e} when every second document changed (at most "
        f"{tolerances.replaced_loss:.1e}; kernels repeat to {noise:.1e}) and differ by "
        f"{figures.alone:.1e} from {num_alone} alone (at most {tolerances.alone_loss:.1e}); "
    )
    if figures.gradient is not None:
        line += f"other documents got {figures.gradient:.1e} of a document's gradient; "
    else:
        line += "gradients and routers were not looked at (--use-megatron-fsdp); "
    return line + f"{seconds:.1f} s"


def describe_fault(fault: Fault, off: str = "--no-packing-check") -> str:
    """Return the sentence that stops the run.

    Args:
        fault: What is wrong.
        off: What leaves the check out.
    """
    return f"the packing check failed: {fault}; mend that, or train all the same with {off}"
