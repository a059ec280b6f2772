# SPDX-License-Identifier: Apache-2.0
"""The table of stages of a GPU run: their order, time limits, functions and report lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage."""

    seconds: int
    """Its time limit."""
    function: str
    """``module:function``, imported only in the process that runs the stage."""
    describe: Callable[[dict[str, Any]], str]
    """Its result in one line."""
    uses_megatron: bool = True
    """Whether its process imports Megatron and Transformer Engine before its turn."""

    def load(self) -> Callable[[Any], None]:
        """Import the stage's function."""
        module, name = self.function.split(":")
        function: Callable[[Any], None] = getattr(import_module(module), name)
        return function


def _attention(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{name}: {kernel['documents']} documents, largest error {kernel['largest_error']:.1e}"
        for name, kernel in result.get("kernels", {}).items()
    )


def _attention_time(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{row['kernel']} at {row['row']:,}: {row['measured_over_predicted']:.2f} of predicted, "
        f"whole row {row['whole_row_flops'] / 1e12:.0f} TFLOP/s"
        for row in result.get("rows", [])
    )


def _variant(kernel: dict[str, Any]) -> list[str]:
    parts = ["refused"] if "refused" in kernel else []
    parts += [kernel["error"][:70]] if "error" in kernel else []
    parts += [format(kernel["largest_error"], ".1e")] if "largest_error" in kernel else []
    return parts


def _variants(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{name}: " + ", ".join(_variant(kernel))
        for name, kernel in result.get("kernels", {}).items()
    )


def _waits(result: dict[str, Any]) -> str:
    if "waits" not in result:
        return str(result.get("skipped", ""))
    found = f"{result['waits']} waits of the host in {result['layers']} layers"
    if "get_batch_milliseconds" in result:
        found += f"; get_batch: {result['get_batch_milliseconds']:.1f} ms with an idle device"
    return found


def _padding(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{kind}: {found['milliseconds']:.1f} ± {found['error']:.1f} ms, "
        f"{found['clock'] or 0:.0f} MHz, {found['watts'] or 0:.0f} W"
        for kind, found in result.get("kinds", {}).items()
    )


def _check(result: dict[str, Any]) -> str:
    if "bugs" not in result:
        return ""
    found = f"{result['found']} of {result['bugs']} planted bugs found"
    if "differs" not in result:
        return found
    return (
        f"{found}; steps with the check differ by {result['differs']:.1e} from those without, "
        f"which repeat to {result['repeats']:.1e}"
    )


def _width(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{kind}: " + ", ".join(f"{ms:.0f} ms at {w}" for w, ms in result.get(kind, {}).items())
        for kind in ("fused", "unfused")
    )


def _fp8(result: dict[str, Any]) -> str:
    if "largest_difference" not in result:
        return str(result.get("skipped", ""))
    bf16, fp8 = (result[kind]["milliseconds"] for kind in ("bf16", "fp8"))
    apart = result["largest_difference"]
    return f"bf16 {bf16:.0f} ms, FP8 {fp8:.0f} ms a row; losses differ by {apart:.1e}"


def _model(result: dict[str, Any]) -> str:
    if "loss" not in result:
        return ""
    return (
        f"{result['documents']} documents: loss {result['loss']:.1e}, gradient "
        f"{result['gradient']:.1e} (leaking: {result['leaking_gradient']:.1e}); "
        f"{result['bits_changed']} of {result['bits_compared']} losses changed by others"
        f" (leaking: {result.get('leaking_bits_changed', '-')})"
    )


def _trainer(result: dict[str, Any]) -> str:
    if "faster" not in result:
        return ""
    return (
        f"{result['faster']:.2f} times faster with {result['ratio_of_rows']:.2f} times fewer rows"
    )


def _graph(result: dict[str, Any]) -> str:
    if "graph_milliseconds" not in result:
        return ""
    return (
        f"eager {result['eager_milliseconds']:.1f} ms, replayed "
        f"{result['graph_milliseconds']:.1f} ms; loss differs by {result['replayed']['loss']:.1e}, "
        f"gradient by {result['replayed']['gradient']:.1e} (eager again: "
        f"{result['eager_again']['gradient']:.1e})"
    )


STAGES: dict[str, Stage] = {
    "machine": Stage(
        60,
        "card:measure_machine",
        lambda r: f"{r.get('card')}, {r.get('product_flops', 0) / 1e12:.0f} TFLOP/s",
        uses_megatron=False,
    ),
    "attention": Stage(90, "attention_checks:check_attention", _attention),
    "variants": Stage(90, "attention_variants:check_variants", _variants),
    "partition": Stage(
        60,
        "attention_checks:check_partition",
        lambda r: f"{r.get('different')} of {r.get('compared')} differ",
    ),
    "model": Stage(120, "model_check:check_model", _model),
    "rows": Stage(
        240,
        "throughput:measure_rows",
        lambda r: ", ".join(f"{s:.2f}" for s in r.get("share_of_the_ratio_of_rows", [])),
    ),
    "padding": Stage(120, "padding_time:measure_padding", _padding),
    "attention_time": Stage(120, "attention_time:measure_attention", _attention_time),
    "loading": Stage(
        90,
        "step_time:measure_loading",
        lambda r: f"{r.get('slower', 0):.3f} of the time without loading",
    ),
    "graph": Stage(120, "step_time:measure_graph", _graph),
    "width": Stage(90, "step_time:measure_width", _width),
    "fp8": Stage(90, "step_time:measure_fp8", _fp8),
    "waits": Stage(
        60,
        "card:count_waits",
        _waits,
    ),
    "kernels": Stage(60, "card:name_kernels", lambda r: r.get("skipped", "kernels.json")),
    "tests": Stage(120, "trainer:run_tests", lambda r: r.get("last_line", ""), uses_megatron=False),
    "check": Stage(200, "start_check:check_start", _check, uses_megatron=False),
    "trainer": Stage(400, "trainer:train", _trainer, uses_megatron=False),
}
"""All stages in their order. Correctness comes first."""
