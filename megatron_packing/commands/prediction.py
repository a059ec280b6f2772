# SPDX-License-Identifier: Apache-2.0
"""Arguments of the commands that predict the time of steps."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace

from megatron_packing.commands.model_shape import add_model_arguments, model_of
from megatron_packing.errors import InputError
from megatron_packing.simulate.choose import choose_costs
from megatron_packing.simulate.costs import Costs, Experts
from megatron_packing.simulate.hardware import DEVICES, Device
from megatron_packing.thd.alignment import segment_alignment

_PARALLEL = {
    "tensor": "tensor-parallel GPUs",
    "pipeline": "pipeline stages",
    "context": "context-parallel GPUs",
}
_RATES = {  # flag: field, unit, help
    "--gpu-tflops": ("flops", 1e12, "dense BF16 operations a GPU does, in 10^12 a second"),
    "--gpu-memory": ("memory", 1e9, "memory of a GPU, in 10^9 bytes"),
    "--memory-bandwidth": ("memory_bandwidth", 1e9, "of a GPU's memory, in 10^9 bytes a second"),
    "--node-bandwidth": (
        "node_bandwidth",
        1e9,
        "what a GPU sends to others of its node, in 10^9 bytes a second",
    ),
    "--network-bandwidth": (
        "network_bandwidth",
        1e9,
        "what a GPU sends to other nodes, in 10^9 bytes a second",
    ),
    "--linear-efficiency": ("linear_efficiency", 1, "share of its operations in linear layers"),
    "--attention-efficiency": ("attention_efficiency", 1, "share of its operations in attention"),
}


def add_prediction_arguments(parser: ArgumentParser, *, default_gpus: int = 64) -> None:
    """Declare model, layout, GPU and batch."""
    parser.add_argument(
        "--global-batch-size",
        type=int,
        default=128,
        metavar="N",
        help="rows of a step (default: 128)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=32,
        metavar="N",
        help="steps of an epoch that are played at most; the others are taken to be like them "
        "(default: 32)",
    )
    add_model_arguments(parser)
    layout = parser.add_argument_group(
        "layout", "how the model is spread over GPUs; what is left of them is data-parallel"
    )
    layout.add_argument(
        "--gpus", type=int, default=default_gpus, metavar="N", help="all GPUs (default: 64)"
    )
    for name, what in _PARALLEL.items():
        layout.add_argument(
            f"--{name}-parallel",
            type=int,
            metavar="N",
            help=f"{what} of a row (default: chosen so that the model fits into memory and steps "
            "are short)",
        )
    layout.add_argument(
        "--virtual-pipeline",
        type=int,
        default=1,
        metavar="N",
        help="model chunks of each pipeline stage; above 1 the schedule is interleaved "
        "(default: 1)",
    )
    layout.add_argument(
        "--expert-parallel",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share the experts of a layer (default: 1)",
    )
    layout.add_argument(
        "--experts",
        type=int,
        default=1,
        metavar="N",
        help="experts of each layer, each with an MLP of the model's size (default: 1)",
    )
    layout.add_argument(
        "--experts-per-token",
        type=int,
        default=1,
        metavar="N",
        help="experts that a token is sent to (default: 1)",
    )
    layout.add_argument(
        "--recompute",
        action="store_true",
        help="compute each layer again in the backward pass (default: only where memory needs it)",
    )
    gpu = parser.add_argument_group("GPU")
    gpu.add_argument("--gpu", choices=DEVICES, default="h100", help="its kind (default: h100)")
    for flag, (_, _, what) in _RATES.items():
        gpu.add_argument(flag, type=float, metavar="X", help=f"{what} (default: that of --gpu)")


def device_of(args: Namespace) -> Device:
    """The GPU named, with the rates that were given in place of its own.

    Raises:
        InputError: A rate is not positive.
    """
    device = DEVICES[args.gpu]
    for flag, (field, unit, _) in _RATES.items():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is None:
            continue
        if value <= 0:
            raise InputError(f"{flag} is {value:g}; it must be above 0")
        if field.endswith("efficiency") and value > 1:
            raise InputError(f"{flag} is {value:g}; it is a share, at most 1")
        device = dataclasses.replace(device, **{field: value * unit})
    return device


def costs_of(args: Namespace, sequence_length: int) -> Costs:
    """The model in the layout that was asked for, or in one that fits into memory.

    Raises:
        InputError: A size is wrong, or no layout fits.
    """
    for name in ("global_batch_size", "steps", "gpus"):
        if getattr(args, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {getattr(args, name)}; it must be at least 1")
    given = {name: getattr(args, f"{name}_parallel") for name in _PARALLEL}
    return choose_costs(
        model_of(args),
        device_of(args),
        gpus=args.gpus,
        sequence_length=sequence_length,
        global_batch_size=args.global_batch_size,
        experts=Experts(number=args.experts, per_token=args.experts_per_token),
        recompute=args.recompute,
        virtual=args.virtual_pipeline,
        expert=args.expert_parallel,
        **{name: size for name, size in given.items() if size is not None},
    )


def alignment_of(args: Namespace, costs: Costs) -> int:
    """The alignment given, or what context parallelism needs where none is.

    Raises:
        InputError: What was given is no multiple of that.
    """
    needed = segment_alignment(costs.layout.context)
    if args.alignment == 1:
        return needed
    if args.alignment % needed:
        raise InputError(
            f"--alignment is {args.alignment}; context parallelism over {costs.layout.context} "
            f"GPUs needs a multiple of {needed}"
        )
    alignment: int = args.alignment
    return alignment
