"""Flags for a Megatron pretrain script."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import megatron.core

from megatron_packing.errors import InputError
from megatron_packing.index.plan import OVERLONG, STRATEGIES
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.thd.alignment import row_multiple, segment_alignment
from megatron_packing.thd.attention import BACKENDS
from megatron_packing.thd.layout import ATTENTION, POSITION_IDS, positions_of
from megatron_packing.thd.loss_weights import NORMALISERS


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
        "--packing-alignment",
        type=int,
        default=None,
        metavar="A",
        help="Each document takes a multiple of A positions in its row; without it the least that "
        "context parallelism asks for. Give 2 * C to go on later with up to C context-parallel "
        "ranks on the same packs.",
    )
    group.add_argument(
        "--packing-attention",
        choices=ATTENTION,
        default="document",
        help="Whether a document sees itself alone, or those before it in its row too.",
    )
    group.add_argument(
        "--packing-position-ids",
        choices=POSITION_IDS,
        default=None,
        help="Whether positions restart in each document or continue through the row; without it "
        "they do what --packing-attention does. Rotary embeddings always do.",
    )
    group.add_argument(
        "--packing-attention-backend",
        choices=BACKENDS,
        default=None,
        help="What computes attention; without it Transformer Engine, or with --transformer-impl "
        "local torch's variable-length kernels on GPUs and the reference elsewhere.",
    )
    group.add_argument(
        "--packing-normaliser",
        choices=NORMALISERS,
        default="token",
        help="What weighs the same in the loss of a global batch: each trained token, each "
        "document, or each trained turn.",
    )
    group.add_argument(
        "--packing-new-stream",
        action="store_true",
        help="Go on from a checkpoint with other data than it was trained with: a corpus that it "
        "was trained with, in the same packs, goes on with its first unread row, any other begins "
        "with its first row. The log says which. Off by default: other data are refused.",
    )
    group.add_argument(
        "--packing-allow-other-tokenizer",
        action="store_true",
        help="Train on corpora that were tokenized with another tokenizer than each other or than "
        "the run's. Off by default: they are refused. Tokens beyond the model's vocabulary are "
        "always refused.",
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
        "--packing-build-minutes",
        type=float,
        default=60.0,
        metavar="M",
        help="How long the other ranks wait while the first packs at the start. Of many documents "
        "better make indexes beforehand.",
    )
    group.add_argument(
        "--packing-balance",
        action="store_true",
        help="Deal the packs of each global batch so that every data-parallel rank has equal work "
        "in total; the batches and their gradients stay the same.",
    )
    return parser


def check_packing_arguments(args: Namespace) -> None:
    """Refuse settings under which packed training would be wrong.

    Raises:
        InputError: Names the flag and what to give instead.
    """
    for name in ("micro_batch_size", "eval_micro_batch_size"):  # the second from 0.19 on
        if getattr(args, name, 1) not in (None, 1):
            flag = flag_of(name)
            raise InputError(
                f"{flag} is {getattr(args, name)}; a packed row is a micro-batch of its own: "
                f"give {flag} 1 and a longer --seq-length"
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
    for name, why in _REFUSED.items():
        if getattr(args, name, None):
            raise InputError(f"{flag_of(name)} does not go with packing: {why}; leave it out")
    if args.dataloader_type != "single":
        raise InputError(
            f"--dataloader-type is {args.dataloader_type}, whose order of rows depends on how long "
            f"the run is, and packs have a random order already: give single"
        )
    if getattr(args, "cuda_graph_impl", "none") not in (None, "none"):
        raise InputError(
            f"--cuda-graph-impl is {args.cuda_graph_impl}, but captured graphs keep the boundaries "
            f"of one row: leave it out"
        )
    if getattr(args, "full_validation", False) and not args.multiple_validation_sets:
        raise InputError(
            "--full-validation fails in Megatron with one validation set: give --eval-iters, of "
            "which the log says how many take each document once"
        )
    if args.num_experts is not None:
        _check_experts(args)
    _check_lengths(args)
    _check_positions(args)
    if args.packing_balance:
        _check_balance(args)


# Flags of some of Megatron's versions.
_REFUSED = {
    "sft": "it makes Megatron log means of micro-batch means, and packed data need none of it",
    "mtp_num_layers": "Megatron divides its loss by each micro-batch's own count, so it would "
    "depend on the packs",
    "reset_position_ids": "--packing-position-ids says what they do",
    "reset_attention_mask": "--packing-attention says what documents see",
    "eod_mask_loss": "the corpus says which tokens are trained",
    "hybrid_context_parallel": "packs have one length, so ranks share all rows alike",
    "overlap_moe_expert_parallel_comm": "its schedule takes no cu_seqlens",
    "mock_data": "it makes rows, not documents",
    "dataloader_fast_cache_load": "pack indexes are memory-mapped and load at once",
    "check_for_spiky_loss": "the loss of a row has no usual size",
    "moe_expert_capacity_factor": "padding would take the capacity of experts",
    "moe_expert_rank_capacity_factor": "padding would take the capacity of experts",
}


def _check_experts(args: Namespace) -> None:
    """Refuse routers that count padding, or whose losses are divided by what they do not expect."""
    balancing = args.moe_router_load_balancing_type
    kinds = {balancing} if isinstance(balancing, str) else set(balancing)
    for kind in ("sinkhorn", "quantile_balancing"):
        if kind in kinds:
            raise InputError(
                f"--moe-router-load-balancing-type is {kind}, which routes padding among the "
                f"tokens: give aux_loss, seq_aux_loss, global_aux_loss or none"
            )
    coefficients = args.moe_aux_loss_coeff
    if not isinstance(coefficients, list):
        coefficients = [coefficients]
    if kinds == {"none"}:
        coefficients = []
    if args.packing_normaliser != "token" and (any(coefficients) or args.moe_z_loss_coeff):
        raise InputError(
            f"--packing-normaliser {args.packing_normaliser} does not go with a load balancing or "
            f"z loss of experts, which Megatron multiplies by tokens: give token, or "
            f"--moe-aux-loss-coeff 0 and no --moe-z-loss-coeff"
        )
    if getattr(args, "moe_router_enable_expert_bias", False) and not _counts_experts_unpadded():
        raise InputError(
            f"--moe-router-enable-expert-bias does not go with packing under megatron-core "
            f"{megatron.core.__version__}, whose routers fail where padding is not to be counted; "
            f"use 0.20 or later, or leave it out"
        )


def _counts_experts_unpadded() -> bool:
    """Before 0.20 the shapes of two masks do not match (router.py, ``_apply_expert_bias``)."""
    major, minor = megatron.core.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (0, 20)


def _check_lengths(args: Namespace) -> None:
    multiple = row_multiple(
        context_parallel_size=args.context_parallel_size,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
        fp8_recipe=args.fp8_recipe if getattr(args, "fp8", None) else None,
        fp4=bool(getattr(args, "fp4", None)),
    )
    if args.seq_length % multiple:
        raise InputError(
            f"--seq-length is {args.seq_length}, but context, tensor and sequence parallelism and "
            f"the FP8 recipe of this run cut rows into parts of equal length: "
            f"give a multiple of {multiple}"
        )
    least = segment_alignment(args.context_parallel_size)
    alignment = args.packing_alignment
    if alignment is None:
        return
    if alignment < 1 or alignment % least or args.seq_length % alignment:
        raise InputError(
            f"--packing-alignment is {alignment}; it must be a multiple of {least}, as "
            f"--context-parallel-size {args.context_parallel_size} asks, and divide --seq-length "
            f"{args.seq_length}"
        )


def _check_positions(args: Namespace) -> None:
    position_ids = args.packing_position_ids or positions_of(args.packing_attention)
    rotates = args.position_embedding_type in ("rope", "yarn", "mrope")
    if args.packing_attention == "pack" and position_ids == "restart" and rotates:
        raise InputError(
            f"--packing-position-ids restart does not go with --packing-attention pack and "
            f"--position-embedding-type {args.position_embedding_type}, whose positions count "
            f"through whatever attention sees: give continue"
        )


def flag_of(name: str) -> str:
    """The flag of an argument's name."""
    return f"--{name.replace('_', '-')}"


def _check_balance(args: Namespace) -> None:
    """Refuse settings under which a global batch is not one run of samples, known beforehand."""
    for name in ("rampup_batch_size", "step_batch_size_schedule"):
        if getattr(args, name, None) is not None:  # Megatron's versions have some of them
            raise InputError(
                f"{flag_of(name)} is {getattr(args, name)}, but --packing-balance needs "
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
        "packing_eval_packs_multiple_of": (
            getattr(args, "eval_global_batch_size", None) or args.global_batch_size
        ),
        "packing_with_padding_mask": args.num_experts is not None,
    }
    # Fields that Megatron's versions share with their flags.
    for field in fields(PackedDatasetConfig):
        if field.init and field.name not in settings and hasattr(args, field.name):
            settings[field.name] = getattr(args, field.name)
    return PackedDatasetConfig(**settings)
