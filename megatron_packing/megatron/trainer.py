# SPDX-License-Identifier: Apache-2.0
"""Provides the datasets and the forward step that a script passes to Megatron's ``pretrain()``.

Imports ``megatron.training``, which is in megatron-core's wheel from 0.17 on and in every checkout
of Megatron-LM.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import megatron_packing.needs.megatron_training  # noqa: F401

import megatron.training.models.gpt
import megatron.training.training
import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from megatron.training import get_args, get_timers, print_rank_0
from megatron.training.models import HybridModelConfig
from megatron.training.utils import get_blend_and_blend_per_split
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.first_rank import on_first_rank
from megatron_packing.megatron.arguments import check_packing_arguments, dataset_config_from_args
from megatron_packing.megatron.attention_choice import check_attention
from megatron_packing.megatron.attention_limits import width_problem
from megatron_packing.megatron.balance import balance_steps
from megatron_packing.megatron.batch import (
    get_batch,
    is_dataset_built_on_rank,
    is_tokens_stage,
    run_model,
)
from megatron_packing.megatron.data_checks import check_data, check_data_paths
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.dataset_builder import PackedDatasetBuilder
from megatron_packing.megatron.endless import EndlessDataset
from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.hybrid_layer_spec import packed_hybrid_spec
from megatron_packing.megatron.indexes import corpora_of, open_indexes, prepare_indexes
from megatron_packing.megatron.isolation import check_before_training
from megatron_packing.megatron.launch import raise_open_files_limit
from megatron_packing.megatron.layer_spec import (
    choose_backend,
    packed_layer_spec,
    packed_multi_token_spec,
)
from megatron_packing.megatron.live_counts import trained_rows
from megatron_packing.megatron.live_figures import show_live_figures
from megatron_packing.megatron.loss import loss_func
from megatron_packing.megatron.multi_token import has_multi_token_layers
from megatron_packing.megatron.opened import OpenedData
from megatron_packing.megatron.packed_rotation import describe_rotation
from megatron_packing.megatron.plain_errors import show_input_errors_as_sentences
from megatron_packing.megatron.start_report import describe_start, parts_of
from megatron_packing.megatron.stream import (
    first_sample_of_run,
    open_stream,
    recorded_alignment,
    recorded_order,
)
from megatron_packing.megatron.versions import (
    describe_untested_trainer,
    flag_value,
    seqlen_stats_update,
)
from megatron_packing.megatron.vocabulary import check_tokenizer, check_tokens

_opened: OpenedData | None = None
"""By the datasets of the first model chunk; Megatron builds datasets once per chunk."""


def datasets_provider(num_samples: list[int], vp_stage: int | None = None) -> tuple[Any, Any, Any]:
    """Build this rank's training, validation and test datasets; each is None if not read here.

    Args:
        num_samples: Numbers of rows that training, validation and test will read.
        vp_stage: The model chunk under virtual pipeline parallelism.
    """
    global _opened
    args = get_args()
    show_input_errors_as_sentences()
    check_packing_arguments(args)
    raise_open_files_limit()
    untested = describe_untested_trainer()
    if untested and not vp_stage:
        print_rank_0(untested)
    # Megatron's own function reads rows with its own batch path, which fails under CP.
    megatron.training.training.dummy_train_step = skip_step
    check_data_paths(args)
    tokenizer = build_tokenizer(args)
    config = dataset_config_from_args(args, tokenizer, get_blend_and_blend_per_split)
    check_data(config, args)
    _on_first_rank(
        "compare", vp_stage, lambda: check_tokenizer(corpora_of(config), args, tokenizer)
    )
    if args.packing_alignment is None and (
        alignment := recorded_alignment(args, config.smallest_alignment)
    ):
        config.packing = replace(config.plan_settings(training=True), alignment=alignment)
    if config.packing_even_order:
        config.packing_even_order = recorded_order(args) or config.packing_even_order
    config.packing_with_tokens = is_tokens_stage(
        vp_stage, multi_token=has_multi_token_layers(args, vp_stage)
    )
    config.packing_for_own_step = True
    print_rank_0("> packing the training, validation and test documents ...")
    is_built = partial(is_dataset_built_on_rank, vp_stage=vp_stage)
    # Ranks that read no data open no files.
    if vp_stage:
        config.packing_opened = _opened
        open_indexes(config, reads=is_built())
    else:
        prepare_indexes(config, reads=is_built())
        _opened = config.packing_opened
    builder = PackedDatasetBuilder(PackedDataset, num_samples, is_built, config)
    splits = builder.build()
    _on_first_rank("check", vp_stage, lambda: _check_and_report(splits, args))
    train, valid, test = splits
    if train is not None and not args.skip_train:
        train = open_stream(train, args)
    first_sample = first_sample_of_run(args)
    if not args.skip_train:
        show_live_figures(train, args, first_sample)
    train = balance_steps(train, args, first_sample=first_sample)
    if not args.skip_train:
        check_before_training(train, args, first_sample)
    return train, _without_end(valid, args), _without_end(test, args)


def _on_first_rank(what: str, vp_stage: int | None, work: Callable[[], None]) -> None:
    """Run ``work`` on rank 0 once per run; Megatron builds datasets once per model chunk."""
    if not vp_stage:
        silence = 60.0 * get_args().packing_build_minutes
        on_first_rank(what, work, f"{what} the data", silence_seconds=silence)


def _check_and_report(splits: Sequence[Any], args: Namespace) -> None:
    parts = [part for split in splits for part in parts_of(split)]
    for part in parts[:1]:  # all rows of the run have one shape
        if problem := width_problem(part.rows.shape.width, args.context_parallel_size):
            raise InputError(problem)
    _check_attention(parts, args)
    check_tokens(parts, args)
    train, valid, test = splits
    for line in describe_start(train, valid, test, args):
        print_rank_0(line)


def _check_attention(parts: Sequence[PackedDataset], args: Namespace) -> None:
    if not parts:
        return
    lines = check_attention(
        args,
        flag_of,
        positions=args.seq_length,
        shape=parts[0].rows.shape,
        allow_unfused=(
            "--packing-allow-unfused-attention",
            args.packing_allow_unfused_attention,
        ),
    )
    if rotation := describe_rotation(args):
        lines.append(rotation)
    for line in lines:
        print_rank_0(f"> {line}")


def _without_end(dataset: Any, args: Namespace) -> Any:
    """Make an evaluation dataset endless; keep full validation sets as they are."""
    if dataset is None or isinstance(dataset, list) or args.full_validation:
        return dataset
    return EndlessDataset(dataset)


datasets_provider.is_distributed = True  # type: ignore[attr-defined]  # called on every rank


def use_packed_layers(model_config: Any, args: Namespace) -> None:
    """Give the model layers whose attention supports packed rows.

    Transformer Engine's own layers already do.

    Args:
        model_config: The result of ``gpt_config_from_args``, or of ``hybrid_config_from_args`` with
            ``--hybrid-layer-pattern``.
        args: Megatron's arguments, including those of ``add_packing_arguments``.

    Raises:
        InputError: The requested attention backend cannot run here, or the flags ask for the other
            class of model.
    """
    is_hybrid = isinstance(model_config, HybridModelConfig)
    _check_class(is_hybrid, args)
    set_fields_that_megatron_skips(model_config, args)
    backend = choose_backend(model_config.transformer, args.packing_attention_backend)
    if backend == "transformer_engine":
        check_own_layers(model_config, args)
        return
    for name in ("spec", "heterogeneous_layers_config_path"):
        if flag_value(args, name) is not None:
            raise InputError(
                f"{flag_of(name)} and --transformer-impl local both choose the layer spec: "
                f"leave {flag_of(name)} out, or use Transformer Engine"
            )

    if is_hybrid:
        model_config.hybrid_stack_spec = packed_hybrid_spec(model_config.transformer, backend)
        return

    def layer_spec(model_config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
        return packed_layer_spec(model_config.transformer, vp_stage, backend)

    model_config.transformer_layer_spec = layer_spec
    if model_config.transformer.mtp_num_layers:
        give_multi_token_layers(
            model_config,
            lambda vp_stage: packed_multi_token_spec(model_config.transformer, vp_stage, backend),
        )


def give_multi_token_layers(model_config: Any, layers: Callable[[int | None], Any]) -> None:
    """Let Megatron build the layers of multi-token prediction from our specs.

    Its builder makes their specs by ``mtp_block_spec``, which it calls by name; it has no other
    seam. Models of other configurations get Megatron's.

    Args:
        model_config: The result of ``gpt_config_from_args``.
        layers: Returns the specs of a pipeline stage.
    """
    original = megatron.training.models.gpt.mtp_block_spec

    @functools.wraps(original)
    def mtp_block_spec(config: Any, layer_spec: Any, vp_stage: int | None = None) -> Any:
        if config is not model_config:
            return original(config, layer_spec, vp_stage=vp_stage)
        return layers(vp_stage)

    megatron.training.models.gpt.mtp_block_spec = mtp_block_spec


def check_own_layers(model_config: Any, args: Namespace) -> None:
    """Refuse --spec where Megatron could not import it, and would build its own layers.

    Raises:
        InputError: It says so.
    """
    own = flag_value(args, "spec")
    is_hybrid = isinstance(model_config, HybridModelConfig)
    found = model_config.hybrid_stack_spec if is_hybrid else model_config.transformer_layer_spec
    if own is not None and found is None:
        raise InputError(
            f"--spec {' '.join(own)} cannot be imported; give a module on PYTHONPATH and a name in "
            f"it"
        )


def _check_class(is_hybrid: bool, args: Namespace) -> None:
    """Refuse a model of another class than the flags ask for."""
    if is_hybrid is (args.hybrid_layer_pattern is not None):
        return
    raise InputError(
        "HybridModel needs --hybrid-layer-pattern: give it, or build the model with "
        "gpt_config_from_args(args)"
        if is_hybrid
        else f"--hybrid-layer-pattern is {args.hybrid_layer_pattern}, but this script builds "
        f"another model than HybridModel: build it with hybrid_config_from_args(args) where the "
        f"flag is given, or leave the flag out"
    )


def set_fields_that_megatron_skips(model_config: Any, args: Namespace) -> None:
    """Set the fields that ``gpt_config_from_args`` does not take from the flags."""
    factor = flag_value(args, "rope_scaling_factor")
    if args.use_rope_scaling and getattr(model_config, "rope_scaling_factor", factor) != factor:
        model_config.rope_scaling_factor = factor
        print_rank_0(f"> rotary embeddings are scaled by --rope-scaling-factor {factor}")


def skip_step(data_iterator: Any) -> None:
    """Read the rows of a step without training on them, for Megatron's --iterations-to-skip.

    Args:
        data_iterator: This rank's iterator, or a list with one per model chunk; None on ranks that
            read no data.
    """
    iterators = data_iterator if isinstance(data_iterator, list) else [data_iterator]
    machine = get_rerun_state_machine()
    while machine.should_run_forward_backward(data_iterator):
        for iterator in iterators:
            if iterator is not None:
                for _ in range(get_num_microbatches()):
                    next(iterator)


def forward_step(
    data_iterator: Iterator[dict[str, Tensor]] | None, model: Any
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]]:
    """Run the model on one packed row.

    Returns:
        The model's output, and the function that computes the loss from it on the last stage.
    """
    args = get_args()
    timers = get_timers()
    vp_stage = get_attr_wrapped_model(model, "vp_stage")
    _check_layers(model)
    straggler_timer = megatron.training.training.stimer  # of --log-straggler
    timers("batch-generator", log_level=2).start()
    with straggler_timer(bdata=True):
        has_multi_token = has_multi_token_layers(get_model_config(model), vp_stage)
        batch = get_batch(data_iterator, vp_stage, multi_token=has_multi_token)
    timers("batch-generator").stop()
    if model.training and not vp_stage:  # once per row, and not in evaluations
        _count_real_lengths(batch.real_lengths)
        trained_rows.add(batch.counts)
    with straggler_timer:
        output = run_model(model, batch)
    return output, partial(
        loss_func,
        batch.loss_mask,
        batch.denominator,
        further=batch.figures,
        check_for_nan=args.check_for_nan_in_loss_and_grad,
    )


def _check_layers(model: Any) -> None:
    """Refuse layers whose attention does not support packed rows, and a model of another class.

    Each model is checked once.
    """
    if getattr(model, "takes_packed_rows", False):
        return
    was_chosen = hasattr(get_model_config(model), "packed_rows_attention")
    if not was_chosen or any(isinstance(one, DotProductAttention) for one in model.modules()):
        raise InputError(
            "the model's layers do not support packed rows: call use_packed_layers(model_config, "
            "args) of megatron_packing.megatron.trainer before pretrain()"
        )
    _check_class(any(isinstance(module, HybridModel) for module in model.modules()), get_args())
    model.takes_packed_rows = True


def _count_real_lengths(real_lengths: Tensor) -> None:
    """Pass real segment lengths to Megatron's throughput log, if this release takes them."""
    update = seqlen_stats_update(megatron.training.training)
    if update is not None:
        update(torch.nn.functional.pad(real_lengths.cumsum(0), (1, 0)))
