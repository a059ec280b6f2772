# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing check-model``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from megatron_packing.errors import FaultError, InputError
from megatron_packing.isolation.result import ATTENTIONS, ROW_FORMS, ModelCheck
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.model_check import (
    describe_fault,
    describe_model_check,
    model_check_record,
)

HELP = "prove that a model keeps the documents of a packed row apart"
EXAMPLE = "megatron-packing check-model qwen3_next --rows varlen"
JSON_KEYS = {
    "model": "the class of the model; beside it num_layers, num_parameters, and kinds, the classes "
    "of layers that mix positions",
    "stand_ins": "kernels that torch computed in their place, as they need a GPU",
    "remarks": "what was run of a model of Megatron, and which flags were left out",
    "apart": "whether documents are apart in every combination that the model takes",
    "findings": "of each form of rows and attention: rows, attention, outcome (apart, leaks, "
    "place, refused, absent), moved, alone, gradient, layer, cause, fault",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a folder with config.json, a model type of transformers such as qwen3_next, or a "
        "configuration class such as JambaConfig; it is built small, with random weights",
    )
    parser.add_argument(
        "--megatron-flags",
        metavar="FLAGS",
        help="in place of MODEL: the flags of a Megatron pretrain script, or a file that has them; "
        "the model is built small by Megatron, and documents are told to it by cu_seqlens "
        "(default: none)",
    )
    parser.add_argument(
        "--bridge-recipe",
        metavar="NAME",
        help="in place of MODEL: the dotted name of a function that makes a recipe, or of a model "
        "provider, of Megatron-Bridge 0.6 or later; its model is built small in the same way "
        "(default: none)",
    )
    parser.add_argument(
        "--rows",
        action="append",
        choices=ROW_FORMS,
        help="how a row is told to a MODEL: positions: position_ids that restart in each "
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
        help="keep the size of a MODEL, and its weights where the folder has them (default: few "
        "layers of each kind, small widths, random weights)",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="torch's name of the device; a GPU runs the model's own kernels (default: cpu for a "
        "MODEL; for Megatron's models a GPU where there is one)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Check a model."""
    check = _check(args)
    console.print(describe_model_check(check, as_is=args.as_is))
    record = model_check_record(check)
    if check.faults:
        raise FaultError(describe_fault(check), record)
    return record


def _check(args: Namespace) -> ModelCheck:
    ways = {
        "MODEL": args.model,
        "--megatron-flags": args.megatron_flags,
        "--bridge-recipe": args.bridge_recipe,
    }
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"{' and '.join(given) or 'no model'} given; give one of MODEL, --megatron-flags and "
            f"--bridge-recipe"
        )
    if args.model is None:
        for flag in ("--rows", "--attention", "--as-is"):
            if getattr(args, flag[2:].replace("-", "_")):
                raise InputError(f"{flag} is for models of transformers; leave it out")
    if args.megatron_flags is not None:
        from megatron_packing.megatron.small_check import check_flags  # torch and Megatron

        return check_flags(args.megatron_flags, args.device)
    if args.bridge_recipe is not None:
        from megatron_packing.bridge.small_recipe import check_recipe  # torch and Bridge

        return check_recipe(args.bridge_recipe, args.device)
    from megatron_packing.isolation.check import check_model  # torch and transformers

    with progress_bar("checking", total=1.0) as bar:
        return check_model(
            args.model,
            args.rows or ROW_FORMS,
            args.attention or ATTENTIONS,
            as_is=args.as_is,
            device=args.device or "cpu",
            progress=lambda share: bar.update(share, ""),
        )
