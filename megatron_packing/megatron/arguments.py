# SPDX-License-Identifier: Apache-2.0
"""Flags for a Megatron pretrain script."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from megatron_packing.megatron.balance import even_settings_of
from megatron_packing.megatron.checks import check_packing_arguments
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.flags import MEGATRON_SETS, PLAN_PREFIX
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.order import PACK_ORDERS
from megatron_packing.thd.alignment import segment_alignment
from megatron_packing.thd.attention import BACKENDS
from megatron_packing.thd.layout import ATTENTION, POSITION_IDS
from megatron_packing.thd.loss_weights import NORMALISERS

__all__ = ["add_packing_arguments", "check_packing_arguments", "dataset_config_from_args"]


def add_packing_arguments(parser: ArgumentParser) -> ArgumentParser:
    """Add the packing flags. Pass this to Megatron as ``extra_args_provider``."""
    group = parser.add_argument_group("packing")
    PlanSettings.add_arguments(
        group,
        prefix=PLAN_PREFIX,
        without=MEGATRON_SETS,
        overrides={
            "alignment": {
                "default": None,
                "metavar": "A",
                "help": "Each document takes a multiple of A positions in its row. Give 2 * C to "
                "resume later with up to C context-parallel ranks on the same packs (default: the "
                "smallest multiple that context parallelism needs).",
            }
        },
    )
    group.add_argument(
        "--packing-attention",
        choices=ATTENTION,
        default="document",
        help="What a document attends to: itself alone (document), or also the documents before it "
        "in its row (pack) (default: document).",
    )
    group.add_argument(
        "--packing-position-ids",
        choices=POSITION_IDS,
        default=None,
        help="Whether position ids restart in each document or continue through the row (default: "
        "restart with --packing-attention document, continue with pack). Rotary embeddings always "
        "follow --packing-attention.",
    )
    group.add_argument(
        "--packing-attention-backend",
        choices=BACKENDS,
        default=None,
        help="What computes attention (default: Transformer Engine; with --transformer-impl local "
        "torch's variable-length kernels on GPUs and the reference on CPUs).",
    )
    group.add_argument(
        "--packing-allow-unfused-attention",
        action="store_true",
        help="Train even if Transformer Engine has no fused attention kernel for packed rows, so "
        "that it stores all attention scores. Off by default: such runs are refused before the "
        "first step.",
    )
    group.add_argument(
        "--packing-check",
        action=BooleanOptionalAction,
        default=None,
        help="Run a row through the model before the first step, and end the run if its documents "
        "see each other (default: where training starts at step 0).",
    )
    group.add_argument(
        "--packing-normaliser",
        choices=NORMALISERS,
        default="token",
        help="The unit of equal weight in the loss of a global batch: each trained token, each "
        "document (sequence), or each trained turn (default: token).",
    )
    group.add_argument(
        "--packing-new-stream",
        action="store_true",
        help="Resume from a checkpoint with different data. A corpus that the checkpoint read in "
        "the same packs continues at its first unread row; any other corpus starts at its first "
        "row. The log says which (default: different data are refused).",
    )
    group.add_argument(
        "--packing-resume-without-record",
        action="store_true",
        help="Resume from a checkpoint that has no packing_stream.json, and assume that it read "
        "the data of this run (default: such checkpoints are refused).",
    )
    group.add_argument(
        "--packing-allow-other-tokenizer",
        action="store_true",
        help="Train on corpora whose tokenizers differ from each other or from the run's (default: "
        "they are refused). Tokens beyond the model's vocabulary are always refused.",
    )
    group.add_argument(
        "--packing-indexes",
        nargs="+",
        default=[],
        metavar="DIR",
        help="Pack indexes made with megatron-packing pack: folders, or s3:// and msc:// URLs of "
        "folders, which are copied into --object-storage-cache-path (default: rank 0 makes them at "
        "the start, in --data-cache-path).",
    )
    group.add_argument(
        "--packing-build-minutes",
        type=float,
        default=10.0,
        metavar="M",
        help="Minutes that the other ranks wait at the start while rank 0 makes no progress; it "
        "may pack for longer. With many documents, make the indexes beforehand (default: 10).",
    )
    group.add_argument(
        "--packing-order",
        choices=PACK_ORDERS,
        default="random",
        help="The order of packs. With even, data-parallel ranks run packs of like work in every "
        "micro-batch, where pipeline, expert and fully sharded parallelism make them wait for each "
        "other; global batches have other packs than with random. A run that resumes keeps the "
        "order it began with, whatever its ranks (default: random).",
    )
    group.add_argument(
        "--packing-balance",
        action="store_true",
        help="Deal the packs of each global batch so that every data-parallel rank has the same "
        "total work. Batches and gradients do not change (default: off).",
    )
    return parser


def dataset_config_from_args(
    args: Namespace,
    tokenizer: Any,
    get_blends: Callable[[Namespace], tuple[Any, Any]],
) -> PackedDatasetConfig:
    """Build the dataset's configuration from Megatron's arguments and the packing flags.

    Args:
        args: Megatron's flags and those of ``add_packing_arguments``.
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
        "packing": PlanSettings.from_arguments(
            args,
            prefix=PLAN_PREFIX,
            sequence_length=args.seq_length,
            alignment=args.packing_alignment or segment_alignment(args.context_parallel_size),
            seed=args.seed,
        ),
        "packing_indexes": tuple(args.packing_indexes),
        "packing_eval_packs_multiple_of": (
            getattr(args, "eval_global_batch_size", None) or args.global_batch_size
        ),
        "packing_even_order": even_settings_of(args),
        "packing_with_padding_mask": args.num_experts is not None,
    }
    # Fields that have the name of their flag, whichever Megatron this is.
    for field in fields(PackedDatasetConfig):
        if field.init and field.name not in settings and hasattr(args, field.name):
            settings[field.name] = getattr(args, field.name)
    return PackedDatasetConfig(**settings)
