# SPDX-License-Identifier: Apache-2.0
"""Refuses what would train wrongly on packed rows, before anything is built."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import megatron.core

from megatron_packing.errors import InputError
from megatron_packing.megatron.flags import REFUSED, flag_of
from megatron_packing.megatron.storage_checks import storage_problems
from megatron_packing.megatron.versions import core_version
from megatron_packing.thd.alignment import row_multiple, segment_alignment
from megatron_packing.thd.layout import positions_of


def check_packing_arguments(args: Namespace) -> None:
    """Refuse settings under which packed training would be wrong.

    Raises:
        InputError: Names every wrong flag and what to give instead.
    """
    if getattr(args, "yaml_cfg", None):  # then no other argument is sure to be there
        raise InputError(_refusal("yaml_cfg"))
    if not hasattr(args, "packing_strategy"):
        raise InputError(
            "the flags of packing are missing: give add_packing_arguments to Megatron's parser as "
            "extra_args_provider"
        )
    problems = list(_problems(args))
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} settings are wrong:\n- " + "\n- ".join(problems))


def _problems(args: Namespace) -> Iterator[str]:
    sizes = {"micro_batch_size": args.micro_batch_size}
    evaluated = getattr(args, "eval_micro_batch_size", None)  # from 0.19 on
    if evaluated != args.micro_batch_size:  # else it came from the other
        sizes["eval_micro_batch_size"] = evaluated
    for name, size in sizes.items():
        if size not in (None, 1):
            yield (
                f"{flag_of(name)} is {size}; a packed row is a micro-batch of its own: "
                f"give {flag_of(name)} 1 and a longer --seq-length"
            )
    if args.create_attention_mask_in_dataloader:
        yield (
            "the dataloader would make attention masks, whose place cu_seqlens take: "
            "give --no-create-attention-mask-in-dataloader"
        )
    if not args.calculate_per_token_loss:
        yield (
            "without --calculate-per-token-loss Megatron averages the means of micro-batches, "
            "so that tokens of sparsely trained rows weigh more: give that flag"
        )
    for name in REFUSED:
        if name == "hybrid_layer_pattern" and getattr(args, "hybrid_override_pattern", None):
            continue  # Megatron copied that into this; the user gave only that
        if getattr(args, name, None):
            yield _refusal(name)
    if args.dataloader_type != "single":
        yield (
            f"--dataloader-type is {args.dataloader_type}, whose order of rows depends on how long "
            f"the run is, and packs have a random order already: give single"
        )
    if getattr(args, "cuda_graph_impl", "none") not in (None, "none"):
        yield (
            f"--cuda-graph-impl is {args.cuda_graph_impl}, but captured graphs keep the boundaries "
            f"of one row: leave it out"
        )
    if getattr(args, "full_validation", False) and not args.multiple_validation_sets:
        yield (
            "--full-validation fails in Megatron with one validation set: give --eval-iters, of "
            "which the log says how many take each document once"
        )
    if (
        getattr(args, "dataloader_inter_document_masking", False)
        and args.packing_attention == "pack"
    ):
        yield (
            "--dataloader-inter-document-masking keeps documents apart and --packing-attention "
            "pack does not: leave one of the two out"
        )
    yield from storage_problems(args)
    yield from _model_problems(args)
    if args.num_experts is not None:
        yield from _expert_problems(args)
    yield from _length_problems(args)
    if args.packing_balance:
        yield from _balance_problems(args)


def _refusal(name: str) -> str:
    return f"{flag_of(name)} does not go with packing: {REFUSED[name]}; leave it out"


def _model_problems(args: Namespace) -> Iterator[str]:
    """Settings of the model that packed rows, or Megatron itself, would not follow."""
    position_ids = args.packing_position_ids or positions_of(args.packing_attention)
    kind = args.position_embedding_type
    if args.packing_attention == "pack" and position_ids == "restart" and kind in ("rope", "yarn"):
        yield (
            f"--packing-position-ids restart does not go with --packing-attention pack and "
            f"--position-embedding-type {kind}, whose positions count through whatever attention "
            f"sees: give continue"
        )
    if kind not in ("learned_absolute", "rope", "yarn", "none"):
        yield (
            f"--position-embedding-type is {kind}, but packed rows have one position a token, as "
            f"learned_absolute, rope, yarn and none take it: give one of these"
        )
    variant = getattr(args, "experimental_attention_variant", None)
    if variant == "gated_delta_net" and core_version() < (0, 19):
        yield (
            f"--experimental-attention-variant gated_delta_net does not keep documents apart under "
            f"megatron-core {megatron.core.__version__}: use 0.19 or later"
        )
    elif variant not in (None, "gated_delta_net"):
        yield (
            f"--experimental-attention-variant {variant} does not go with packing: what selects "
            f"its keys counts padding; leave it out"
        )
    if (
        getattr(args, "heterogeneous_layers_config_encoded_json", None) is not None
        and args.heterogeneous_layers_config_path is None
    ):
        yield (
            "--heterogeneous-layers-config-encoded-json alone makes Megatron build layers that are "
            "all alike: give --heterogeneous-layers-config-path"
        )


def _expert_problems(args: Namespace) -> Iterator[str]:
    """Routers that count padding."""
    balancing = args.moe_router_load_balancing_type
    kinds = {balancing} if isinstance(balancing, str) else set(balancing)
    for kind in ("sinkhorn", "quantile_balancing"):
        if kind in kinds:
            yield (
                f"--moe-router-load-balancing-type is {kind}, which routes padding among the "
                f"tokens: give aux_loss, seq_aux_loss, global_aux_loss or none"
            )
    # Before 0.20 the shapes of two masks do not match (router.py, ``_apply_expert_bias``).
    if getattr(args, "moe_router_enable_expert_bias", False) and core_version() < (0, 20):
        yield (
            f"--moe-router-enable-expert-bias does not go with packing under megatron-core "
            f"{megatron.core.__version__}, whose routers fail where padding is not to be counted; "
            f"use 0.20 or later, or leave it out"
        )


def _length_problems(args: Namespace) -> Iterator[str]:
    multiple = row_multiple(
        context_parallel_size=args.context_parallel_size,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
        fp8_recipe=args.fp8_recipe if getattr(args, "fp8", None) else None,
        fp4=bool(getattr(args, "fp4", None)),
    )
    if args.seq_length % multiple:
        yield (
            f"--seq-length is {args.seq_length}, but context, tensor and sequence parallelism and "
            f"the FP8 recipe of this run cut rows into parts of equal length: "
            f"give a multiple of {multiple}"
        )
    least = segment_alignment(args.context_parallel_size)
    alignment = args.packing_alignment
    if alignment is None:
        return
    if alignment < 1 or alignment % least or args.seq_length % alignment:
        yield (
            f"--packing-alignment is {alignment}; it must be a multiple of {least}, as "
            f"--context-parallel-size {args.context_parallel_size} asks, and divide --seq-length "
            f"{args.seq_length}"
        )


def _balance_problems(args: Namespace) -> Iterator[str]:
    """Settings under which a global batch is not one run of samples, known beforehand."""
    for name in ("rampup_batch_size", "step_batch_size_schedule"):
        if getattr(args, name, None) is not None:  # Megatron's versions have some of them
            yield (
                f"{flag_of(name)} is {getattr(args, name)}, but --packing-balance needs "
                f"global batches of one size: leave one of the two flags out"
            )
    if args.global_batch_size % args.data_parallel_size:
        yield (
            f"--global-batch-size is {args.global_batch_size}, which {args.data_parallel_size} "
            f"data-parallel ranks do not share evenly, as --packing-balance asks: "
            f"give a multiple of {args.data_parallel_size}"
        )
