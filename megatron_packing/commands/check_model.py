# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing check-model``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from megatron_packing.errors import FaultError
from megatron_packing.isolation.result import ATTENTIONS, ROW_FORMS
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.model_check import (
    describe_fault,
    describe_model_check,
    model_check_record,
)

HELP = "prove that a Hugging Face model keeps the documents of a packed row apart"
EXAMPLE = "megatron-packing check-model qwen3_next --rows varlen"
JSON_KEYS = {
    "model": "the class of the model; beside it num_layers, num_parameters, and kinds, the classes "
    "of layers that mix positions",
    "stand_ins": "kernels that torch computed in their place, as they need a GPU",
    "apart": "whether documents are apart in every combination that the model takes",
    "findings": "of each form of rows and attention: rows, attention, outcome (apart, leaks, "
    "place, refused, absent), moved, alone, gradient, layer, cause, fault",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder with config.json, a model type of transformers such as qwen3_next, or a "
        "configuration class such as JambaConfig; it is built small, with random weights",
    )
    parser.add_argument(
        "--rows",
        action="append",
        choices=ROW_FORMS,
        help="how a row is told to the model: positions: position_ids that restart in each "
        "document; varlen: these and what DataCollatorWithFlattening adds (cu_seq_lens_q and _k, "
        "max_length_q and _k, seq_idx); may be given twice (default: both)",
    )
    parser.add_argument(
        "--attention",
        action="append",
        metavar="NAME",
        help="an attention implementation of transformers; may be given several times (default: "
        f"{', '.join(ATTENTIONS)}, whose kernels torch computes on a CPU)",
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="keep the model's size, and its weights where the folder has them (default: few "
        "layers of each kind, small widths, random weights)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="torch's name of the device; a GPU runs the model's own kernels (default: cpu)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Check a model."""
    from megatron_packing.isolation.check import check_model  # torch and transformers

    with progress_bar("checking", total=1.0) as bar:
        check = check_model(
            args.model,
            args.rows or ROW_FORMS,
            args.attention or ATTENTIONS,
            as_is=args.as_is,
            device=args.device,
            progress=lambda share: bar.update(share, ""),
        )
    console.print(describe_model_check(check, as_is=args.as_is))
    record = model_check_record(check)
    if check.faults:
        raise FaultError(describe_fault(check), record)
    return record
