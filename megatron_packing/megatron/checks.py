# SPDX-License-Identifier: Apache-2.0
"""Refuses Megatron flags that would train wrongly on packed rows, before anything is built."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import megatron.core

from megatron_packing.errors import InputError
from megatron_packing.megatron.attention_limits import attention_problems
from megatron_packing.megatron.flags import REFUSED, flag_of
from megatron_packing.megatron.hybrid_checks import hybrid_problems
from megatron_packing.megatron.layer_pattern import layer_pattern
from megatron_packing.megatron.storage_checks import storage_problems
from megatron_packing.megatron.versions import (
    expert_bias_takes_padding_mask,
    flag_value,
    gated_delta_net_separates_documents,
)
from megatron_packing.stream.even_order import FEWEST_MICRO_BATCHES
from megatron_packing.thd.alignment import row_multiple, segment_alignment
from megatron_packing.thd.layout import positions_of


def check_packing_arguments(args: Namespace) -> None:
    """Refuse settings under which packed training would be wrong.

    Raises:
        InputError: Names every wrong flag and what to give instead.
    """
    if flag_value(args, "yaml_cfg"):  # with it other arguments may be missing
        raise InputError(_refusal("yaml_cfg"))
    if not hasattr(args, "packing_strategy"):
        raise InputError(
            "the packing flags are missing: pass add_packing_arguments to Megatron's parser as "
            "extra_args_provider"
        )
    problems = list(_problems(args))
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} settings are wrong:\n- " + "\n- ".join(problems))


def _problems(args: Namespace) -> Iterator[str]:
    sizes = {"micro_batch_size": args.micro_batch_size}
    evaluated = flag_value(args, "eval_micro_batch_size")
    if evaluated != args.micro_batch_size:  # equal values: Megatron copied the other flag
        sizes["eval_micro_batch_size"] = evaluated
    for name, size in sizes.items():
        if size not in (None, 1):
            yield (
                f"{flag_of(name)} is {size}, but a packed row is a micro-batch of its own: "
                f"give {flag_of(name)} 1 and a longer --seq-length"
            )
    if args.create_attention_mask_in_dataloader:
        yield (
            "the dataloader would create attention masks, but packed rows use cu_seqlens instead: "
            "give --no-create-attention-mask-in-dataloader"
        )
    if not args.calculate_per_token_loss:
        yield (
            "without --calculate-per-token-loss Megatron averages the means of micro-batches, so "
            "tokens in rows with few trained tokens weigh more: give --calculate-per-token-loss"
        )
    for name in REFUSED:
        if getattr(args, name, None):
            yield _refusal(name)
    if args.dataloader_type != "single":
        yield (
            f"--dataloader-type is {args.dataloader_type}, which orders rows by the length of "
            f"the run, but packs are already in random order: give --dataloader-type single"
        )
    graphs = flag_value(args, "cuda_graph_impl")
    if graphs not in (None, "none"):
        # transformer_layer.py leaves packed_seq_params out; cuda_graphs.py copies its fields.
        why = {
            "local": "Megatron's graphs of layers on packed rows were never compared with eager "
            "steps on a GPU",
            "transformer_engine": "Megatron leaves packed_seq_params out of what such a graph is "
            "given, so it reuses the document boundaries of one row",
        }.get(graphs, "a captured step reads no new row")
        yield f"--cuda-graph-impl is {graphs}, but {why}: leave it out"
    if flag_value(args, "full_validation") and not args.multiple_validation_sets:
        yield (
            "--full-validation fails in Megatron with one validation set: give --eval-iters "
            "instead; the log says which value evaluates each document once"
        )
    if flag_value(args, "dataloader_inter_document_masking") and args.packing_attention == "pack":
        yield (
            "--dataloader-inter-document-masking separates documents, but --packing-attention pack "
            "does not: leave one of the two out"
        )
    yield from storage_problems(args)
    yield from _model_problems(args)
    yield from hybrid_problems(args)
    if args.transformer_impl == "transformer_engine":
        yield from attention_problems(args, flag_of)
    if args.num_experts is not None:
        yield from _expert_problems(args)
    yield from _length_problems(args)
    if not args.packing_build_minutes > 0:  # nor is a number that is none
        yield (
            f"--packing-build-minutes is {args.packing_build_minutes:g}; give how many minutes "
            f"ranks may wait while rank 0 makes no progress, more than 0"
        )
    if args.packing_balance:
        yield from _batch_problems(args, "--packing-balance")
        if flag_value(args, "step_batch_size_schedule") and flag_value(
            args, "phase_transition_iterations"
        ):
            yield (
                "--phase-transition-iterations counts samples anew, but the thresholds of "
                "--step-batch-size-schedule count all: --packing-balance takes one of the two"
            )
    if args.packing_order == "even":
        yield from _batch_problems(args, "--packing-order even")
        yield from _even_order_problems(args)


def _refusal(name: str) -> str:
    return f"{flag_of(name)} is not supported with packing: {REFUSED[name]}; leave it out"


def _model_problems(args: Namespace) -> Iterator[str]:
    """Model settings that packed rows, or Megatron itself, would ignore."""
    position_ids = args.packing_position_ids or positions_of(args.packing_attention)
    kind = args.position_embedding_type
    if args.packing_attention == "pack" and position_ids == "restart" and kind in ("rope", "yarn"):
        yield (
            f"--packing-position-ids restart cannot be combined with --packing-attention pack and "
            f"--position-embedding-type {kind}, whose positions continue through the pack: give "
            f"--packing-position-ids continue"
        )
    if args.mtp_num_layers:
        yield from _multi_token_problems(args)
    if kind not in ("learned_absolute", "rope", "yarn", "none"):
        yield (
            f"--position-embedding-type is {kind}, but packed rows have one position id per token: "
            f"give learned_absolute, rope, yarn or none"
        )
    variant = flag_value(args, "experimental_attention_variant")
    if variant == "gated_delta_net" and not gated_delta_net_separates_documents():
        yield (
            f"--experimental-attention-variant gated_delta_net does not separate documents in "
            f"megatron-core {megatron.core.__version__}: use 0.19 or later"
        )
    elif variant not in (None, "gated_delta_net"):
        yield (
            f"--experimental-attention-variant {variant} is not supported with packing: its key "
            f"selection counts padding; leave it out"
        )
    if (
        flag_value(args, "heterogeneous_layers_config_encoded_json") is not None
        and args.heterogeneous_layers_config_path is None
    ):
        yield (
            "with --heterogeneous-layers-config-encoded-json alone Megatron builds identical "
            "layers: give --heterogeneous-layers-config-path"
        )


def _multi_token_problems(args: Namespace) -> Iterator[str]:
    if args.mtp_num_layers < 0:
        yield f"--mtp-num-layers is {args.mtp_num_layers}; give at least 1, or leave it out"
    if args.packing_attention == "pack":
        yield (
            "--mtp-num-layers predicts tokens within a document, but with --packing-attention pack "
            "the model is not told where documents end: leave one of the two out"
        )
    layout = args.pipeline_model_parallel_layout
    if layout and "m" not in layout.rpartition("|")[2]:
        yield (
            f"--pipeline-model-parallel-layout is {layout}, whose last stage has no layers of "
            f"multi-token prediction (m): their embedding would not be synchronized with that of "
            f"the first stage; put them on the last stage"
        )
    pattern = layer_pattern(args)
    if pattern is not None and "/" not in pattern:
        yield (
            f"--mtp-num-layers is {args.mtp_num_layers}, but the hybrid layer pattern {pattern} "
            f"has no layers of multi-token prediction: write them after /, once for each depth, "
            f"as in {pattern}/*-, or leave --mtp-num-layers out"
        )


def _expert_problems(args: Namespace) -> Iterator[str]:
    """Router settings that count padding or fail on it."""
    balancing = args.moe_router_load_balancing_type
    kinds = {balancing} if isinstance(balancing, str) else set(balancing)
    for kind in ("sinkhorn", "quantile_balancing"):
        if kind in kinds:
            yield (
                f"--moe-router-load-balancing-type is {kind}, which counts padding as tokens: "
                f"give aux_loss, seq_aux_loss, global_aux_loss or none"
            )
    if flag_value(args, "moe_router_enable_expert_bias") and not expert_bias_takes_padding_mask():
        yield (
            f"--moe-router-enable-expert-bias is not supported with packing in megatron-core "
            f"{megatron.core.__version__}, whose routers fail when they exclude padding: "
            f"use 0.20 or later, or leave it out"
        )


def _length_problems(args: Namespace) -> Iterator[str]:
    multiple = row_multiple(
        context_parallel_size=args.context_parallel_size,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
        fp8_recipe=args.fp8_recipe if flag_value(args, "fp8") else None,
        fp4=bool(flag_value(args, "fp4")),
    )
    if args.seq_length % multiple:
        yield (
            f"--seq-length is {args.seq_length}, but this run's context, tensor and sequence "
            f"parallelism and FP8 recipe need a multiple of {multiple}: "
            f"give a multiple of {multiple}"
        )
    least = segment_alignment(args.context_parallel_size)
    alignment = args.packing_alignment
    if alignment is None:
        return
    if alignment < 1 or alignment % least or args.seq_length % alignment:
        yield (
            f"--packing-alignment is {alignment}: give a multiple of {least}, which "
            f"--context-parallel-size {args.context_parallel_size} requires, that divides "
            f"--seq-length {args.seq_length}"
        )


def _batch_problems(args: Namespace, flag: str) -> Iterator[str]:
    """Settings under which ranks do not share global batches evenly."""
    if args.global_batch_size % args.data_parallel_size:
        yield (
            f"--global-batch-size is {args.global_batch_size}, but {flag} needs the "
            f"same number of rows on each of the {args.data_parallel_size} data-parallel ranks: "
            f"give a multiple of {args.data_parallel_size}"
        )


def _even_order_problems(args: Namespace) -> Iterator[str]:
    """Settings under which ranks cannot have like packs in every micro-batch."""
    schedule = flag_value(args, "step_batch_size_schedule")
    if schedule is not None:
        yield (
            f"--step-batch-size-schedule is {schedule}, but --packing-order even needs global "
            f"batches of one size: leave one of the two flags out, or give --packing-balance"
        )
        return
    if args.global_batch_size // args.data_parallel_size < FEWEST_MICRO_BATCHES:
        yield (
            f"--global-batch-size is {args.global_batch_size}, so each of the "
            f"{args.data_parallel_size} data-parallel ranks has one row in a step, but "
            f"--packing-order even needs at least two: the batches would be sorted by length; give "
            f"--packing-order random"
        )
