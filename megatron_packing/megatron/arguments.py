"""Flags for a Megatron pretrain script."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.index.plan import OVERLONG, STRATEGIES
from megatron_packing.megatron.dataset import PackedDatasetConfig


def add_packing_arguments(parser: ArgumentParser) -> ArgumentParser:
    """Add the flags; give this to Megatron as ``extra_args_provider``."""
    group = parser.add_argument_group("packing")
    group.add_argument(
        "--packing-strategy",
        choices=STRATEGIES,
        default="optimal",
        help="How documents are put together into rows of --seq-length positions.",
    )
    group.add_argument(
        "--packing-overlong",
        choices=OVERLONG,
        default="error",
        help="What happens to documents that are longer than a row.",
    )
    group.add_argument(
        "--packing-max-documents-per-pack",
        type=int,
        default=None,
        metavar="N",
        help="At most N documents in a row.",
    )
    group.add_argument(
        "--packing-packs-multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="Divide packs up to a multiple of N, so that epochs are whole global batches.",
    )
    group.add_argument(
        "--packing-indexes",
        nargs="+",
        default=[],
        metavar="DIR",
        help="Pack indexes made with megatron-packing pack; without them indexes are made at the "
        "start, in --data-cache-path.",
    )
    group.add_argument(
        "--packing-balance",
        action="store_true",
        help="Deal the packs of each global batch so that every data-parallel rank has equal work; "
        "the batches and their gradients stay the same.",
    )
    return parser


def check_packing_arguments(args: Namespace) -> None:
    """Refuse settings under which packed training would be wrong.

    Raises:
        InputError: Names the flag and what to give instead.
    """
    if args.micro_batch_size != 1:
        raise InputError(
            f"--micro-batch-size is {args.micro_batch_size}; a packed row is a micro-batch of its "
            f"own: give --micro-batch-size 1 and a longer --seq-length"
        )
    if args.context_parallel_size != 1:
        raise InputError(
            f"--context-parallel-size is {args.context_parallel_size}; "
            f"packed rows cannot be cut for context parallelism yet: give 1"
        )
    if args.create_attention_mask_in_dataloader:
        raise InputError(
            "the dataloader would make attention masks, whose place cu_seqlens take: "
            "give --no-create-attention-mask-in-dataloader"
        )
    if not args.calculate_per_token_loss:
        raise InputError(
            "without --calculate-per-token-loss Megatron averages the means of micro-batches, "
            "so that tokens of sparsely trained rows weigh more: give that flag"
        )
    if args.packing_balance:
        _check_balance(args)


def _check_balance(args: Namespace) -> None:
    """Refuse settings under which a global batch is not one run of samples, known beforehand."""
    if args.dataloader_type != "single":
        raise InputError(
            f"--dataloader-type is {args.dataloader_type}, which deals packs in an order of its "
            f"own: give single or leave --packing-balance out"
        )
    for name in ("rampup_batch_size", "step_batch_size_schedule"):
        if getattr(args, name, None) is not None:  # Megatron's versions have some of them
            raise InputError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}, but --packing-balance needs "
                f"global batches of one size: leave one of the two flags out"
            )
    if args.global_batch_size % args.data_parallel_size:
        raise InputError(
            f"--global-batch-size is {args.global_batch_size}, which {args.data_parallel_size} "
            f"data-parallel ranks do not share evenly, as --packing-balance asks: "
            f"give a multiple of {args.data_parallel_size}"
        )


def dataset_config_from_args(
    args: Namespace,
    tokenizer: Any,
    get_blends: Callable[[Namespace], tuple[Any, Any]],
) -> PackedDatasetConfig:
    """Collect the dataset's settings from Megatron's arguments and the flags of this module.

    Args:
        args: With Megatron's flags and those of ``add_packing_arguments``.
        tokenizer: Megatron's tokenizer.
        get_blends: ``megatron.training.utils.get_blend_and_blend_per_split``.
    """
    blend, blend_per_split = get_blends(args)
    settings = {
        "random_seed": args.seed,
        "sequence_length": args.seq_length,
        "blend": blend,
        "blend_per_split": blend_per_split,
        "path_to_cache": args.data_cache_path,
        "tokenizer": tokenizer,
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": args.create_attention_mask_in_dataloader,
        "packing_indexes": tuple(args.packing_indexes),
    }
    # Fields that Megatron's versions share with their flags.
    for field in fields(PackedDatasetConfig):
        if field.init and field.name not in settings and hasattr(args, field.name):
            settings[field.name] = getattr(args, field.name)
    return PackedDatasetConfig(**settings)
