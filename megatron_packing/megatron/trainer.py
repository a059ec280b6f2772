"""What Megatron's ``pretrain()`` is called with: datasets and the forward step.

Imports ``megatron.training``, which megatron-core's wheel holds from 0.17 on and a checkout of
Megatron-LM always.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import megatron.training.training
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args, get_timers, print_rank_0
from megatron.training.utils import get_blend_and_blend_per_split
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import dataset_config_from_args, flag_of
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
from megatron_packing.megatron.indexes import corpora_of, prepare_indexes
from megatron_packing.megatron.layer_spec import choose_backend, packed_layer_spec
from megatron_packing.megatron.loss import loss_func
from megatron_packing.megatron.plain_errors import show_input_errors_as_sentences
from megatron_packing.megatron.shared_files import on_first_rank
from megatron_packing.megatron.start_report import describe_start, parts_of
from megatron_packing.megatron.stream import (
    first_sample_of_run,
    open_stream,
    recorded_alignment,
)
from megatron_packing.megatron.vocabulary import check_tokenizer, check_tokens


def datasets_provider(num_samples: list[int], vp_stage: int | None = None) -> tuple[Any, Any, Any]:
    """Build the training, validation and test datasets of this rank; None where it reads none.

    Args:
        num_samples: Rows that training, validation and test will ask for.
        vp_stage: The model chunk under virtual pipeline parallelism.
    """
    args = get_args()
    show_input_errors_as_sentences()
    check_data_paths(args)
    tokenizer = build_tokenizer(args)
    config = dataset_config_from_args(args, tokenizer, get_blend_and_blend_per_split)
    check_data(config, args)
    corpora = corpora_of(config)
    _on_first_rank("compare", vp_stage, lambda: check_tokenizer(corpora, args, tokenizer))
    config.packing_alignment = config.packing_alignment or recorded_alignment(
        args, config.smallest_alignment
    )
    config.packing_with_tokens = is_tokens_stage(vp_stage)
    print_rank_0("> packing the training, validation and test documents ...")
    is_built = partial(is_dataset_built_on_rank, vp_stage=vp_stage)
    prepare_indexes(config)
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
    timers("batch-generator", log_level=2).start()
    batch = get_batch(data_iterator, vp_stage)
    timers("batch-generator").stop()
    if model.training and not vp_stage:  # once a row, and not in evaluations
        _count_real_lengths(batch.real_lengths)
    output = run_model(model, batch)
    return output, partial(
        loss_func,
        batch.loss_mask,
        batch.denominator,
        check_for_nan=args.check_for_nan_in_loss_and_grad,
    )


def _count_real_lengths(real_lengths: Tensor) -> None:
    """Tell Megatron what its floating-point operations a second are to count; from 0.19 on."""
    update = getattr(megatron.training.training, "update_seqlen_stats_from_cu_seqlens", None)
    if update is not None:
        update(torch.nn.functional.pad(real_lengths.cumsum(0), (1, 0)))
