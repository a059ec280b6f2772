# SPDX-License-Identifier: Apache-2.0
"""What Megatron's ``pretrain()`` is called with: datasets and the forward step.

Imports ``megatron.training``, which megatron-core's wheel holds from 0.17 on and a checkout of
Megatron-LM always.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import megatron_packing.needs.megatron_training  # noqa: F401

import megatron.training.training
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args, get_timers, print_rank_0
from megatron.training.utils import get_blend_and_blend_per_split
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import check_packing_arguments, dataset_config_from_args
from megatron_packing.megatron.balance import balance_steps
from megatron_packing.megatron.batch import (
    get_batch,
    is_dataset_built_on_rank,
    is_tokens_stage,
    run_model,
)
from megatron_packing.megatron.data_checks import check_data, check_data_paths
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.endless import EndlessDataset
from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.indexes import corpora_of, prepare_indexes
from megatron_packing.megatron.launch import raise_open_files_limit
from megatron_packing.megatron.layer_spec import choose_backend, packed_layer_spec
from megatron_packing.megatron.loss import loss_func
from megatron_packing.megatron.plain_errors import show_input_errors_as_sentences
from megatron_packing.megatron.start_report import describe_start, parts_of
from megatron_packing.megatron.stream import (
    first_sample_of_run,
    open_stream,
    recorded_alignment,
)
from megatron_packing.megatron.versions import describe_untested_trainer
from megatron_packing.megatron.vocabulary import check_tokenizer, check_tokens
from megatron_packing.ranks import on_first_rank


def datasets_provider(num_samples: list[int], vp_stage: int | None = None) -> tuple[Any, Any, Any]:
    """Build the training, validation and test datasets of this rank; None where it reads none.

    Args:
        num_samples: Rows that training, validation and test will ask for.
        vp_stage: The model chunk under virtual pipeline parallelism.
    """
    args = get_args()
    show_input_errors_as_sentences()
    check_packing_arguments(args)
    raise_open_files_limit()
    untested = describe_untested_trainer()
    if untested and not vp_stage:
        print_rank_0(untested)
    # Megatron's own reads rows as its script does, which fails under context parallelism.
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
    config.packing_with_tokens = is_tokens_stage(vp_stage)
    config.packing_for_own_step = True
    print_rank_0("> packing the training, validation and test documents ...")
    is_built = partial(is_dataset_built_on_rank, vp_stage=vp_stage)
    if is_built() and torch.distributed.get_rank() != 0:
        prepare_indexes(config)
    else:  # ranks that read nothing open no files
        _on_first_rank("pack", vp_stage, lambda: prepare_indexes(config))
    builder = BlendedMegatronDatasetBuilder(PackedDataset, num_samples, is_built, config)
    splits = builder.build()
    _on_first_rank("check", vp_stage, lambda: _check_and_report(splits, args))
    train, valid, test = splits
    if train is not None and not args.skip_train:
        train = open_stream(train, args)
    train = balance_steps(train, args, first_sample=first_sample_of_run(args))
    return train, _without_end(valid, args), _without_end(test, args)


def _on_first_rank(what: str, vp_stage: int | None, work: Callable[[], None]) -> None:
    """Once in a run: Megatron asks for datasets once for each model chunk."""
    if not vp_stage:
        on_first_rank(what, work, f"{what} the data")


def _check_and_report(splits: Sequence[Any], args: Namespace) -> None:
    check_tokens((part for split in splits for part in parts_of(split)), args)
    train, valid, test = splits
    for line in describe_start(train, valid, test, args):
        print_rank_0(line)


def _without_end(dataset: Any, args: Namespace) -> Any:
    """An evaluation's dataset for as many evaluations as there are; several sets as they are."""
    if dataset is None or isinstance(dataset, list) or args.full_validation:
        return dataset
    return EndlessDataset(dataset)


datasets_provider.is_distributed = True  # type: ignore[attr-defined]  # every rank calls it


def use_packed_layers(model_config: Any, args: Namespace) -> None:
    """Give the model an attention that takes packed rows; Transformer Engine's own does already.

    Args:
        model_config: What ``gpt_config_from_args`` gives.
        args: Megatron's arguments with those of ``add_packing_arguments``.

    Raises:
        InputError: The attention that was asked for cannot run here.
    """
    _set_what_megatron_forgets(model_config, args)
    backend = choose_backend(model_config.transformer, args.packing_attention_backend)
    if backend == "transformer_engine":
        return
    for name in ("spec", "heterogeneous_layers_config_path"):
        if getattr(args, name, None) is not None:
            raise InputError(
                f"{flag_of(name)} and --transformer-impl local both say what layers "
                f"are made of: leave the first out, or use Transformer Engine"
            )

    def layer_spec(model_config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
        return packed_layer_spec(model_config.transformer, vp_stage, backend)

    model_config.transformer_layer_spec = layer_spec


def _set_what_megatron_forgets(model_config: Any, args: Namespace) -> None:
    """Set what ``gpt_config_from_args`` leaves at its default whatever the flags say."""
    factor = getattr(args, "rope_scaling_factor", None)
    if args.use_rope_scaling and getattr(model_config, "rope_scaling_factor", factor) != factor:
        model_config.rope_scaling_factor = factor
        print_rank_0(f"> rotary embeddings are scaled by --rope-scaling-factor {factor}")


def skip_step(data_iterator: Any) -> None:
    """Read the rows of a step without training on them: Megatron's --iterations-to-skip.

    Args:
        data_iterator: Of this rank, or a list with one for each of its model chunks; None where it
            reads nothing.
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
        The model's output and the function that makes the loss of it on the last stage.
    """
    args = get_args()
    timers = get_timers()
    vp_stage = get_attr_wrapped_model(model, "vp_stage")
    _check_layers(model)
    straggler_timer = megatron.training.training.stimer  # of --log-straggler
    timers("batch-generator", log_level=2).start()
    with straggler_timer(bdata=True):
        batch = get_batch(data_iterator, vp_stage)
    timers("batch-generator").stop()
    if model.training and not vp_stage:  # once a row, and not in evaluations
        _count_real_lengths(batch.real_lengths)
    with straggler_timer:
        output = run_model(model, batch)
    return output, partial(
        loss_func,
        batch.loss_mask,
        batch.denominator,
        check_for_nan=args.check_for_nan_in_loss_and_grad,
    )


def _check_layers(model: Any) -> None:
    """Refuse layers whose attention takes no packed rows, once."""
    if getattr(model, "takes_packed_rows", False):
        return
    if any(isinstance(module, DotProductAttention) for module in model.modules()):
        raise InputError(
            "the layers of the model take no packed rows: call use_packed_layers(model_config, "
            "args) of megatron_packing.megatron.trainer before pretrain()"
        )
    model.takes_packed_rows = True


def _count_real_lengths(real_lengths: Tensor) -> None:
    """Tell Megatron what its floating-point operations a second are to count; from 0.19 on."""
    update = getattr(megatron.training.training, "update_seqlen_stats_from_cu_seqlens", None)
    if update is not None:
        update(torch.nn.functional.pad(real_lengths.cumsum(0), (1, 0)))
