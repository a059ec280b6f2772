# SPDX-License-Identifier: Apache-2.0
"""Writes what the packing check found: one line of the log, or the sentence that stops the run."""

from __future__ import annotations

from megatron_packing.counted import counted
from megatron_packing.isolation.tolerances import Tolerances
from megatron_packing.megatron.isolation_run import Findings


def describe_findings(findings: Findings, tolerances: Tolerances, seconds: float) -> str:
    """Return the line of a check that found nothing wrong.

    Args:
        findings: What it saw.
        tolerances: What is no fault.
        seconds: What it took.
    """
    comparisons = findings.comparisons
    moved, noise = (float(comparisons[name].moved[-1].max()) for name in ("replaced", "again"))
    alone = {name: one for name, one in comparisons.items() if name.startswith("alone")}
    apart = max(float(one.moved[-1].max()) for one in alone.values())
    gradients = [one for name, one in comparisons.items() if name.startswith("gradient")]
    line = (
        f"> packing check: {counted(len(findings.layout.documents), 'document')} of a row are "
        f"apart: losses moved by {moved:.1e} when every second document changed (at most "
        f"{tolerances.replaced_loss:.1e}; kernels repeat to {noise:.1e}) and differ by {apart:.1e} "
        f"from {len(alone)} alone (at most {tolerances.alone_loss:.1e}); "
    )
    if gradients:
        share = max(float(one.moved[:-1].max()) for one in gradients)
        line += f"other documents got {share:.1e} of a document's gradient; "
    else:
        line += "gradients and routers were not looked at (--use-megatron-fsdp); "
    return line + f"{seconds:.1f} s"


def describe_fault(fault: str) -> str:
    """Return the sentence that stops the run."""
    return (
        f"the packing check failed: {fault}; mend that, or train all the same with "
        f"--no-packing-check"
    )
