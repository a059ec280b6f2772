# SPDX-License-Identifier: Apache-2.0
"""Builds a model of Megatron small, in one process, and runs the packing check on random rows."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import megatron.core
import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_model_config
from megatron.training.argument_utils import gpt_config_from_args, hybrid_config_from_args

from megatron_packing.errors import InputError
from megatron_packing.isolation.result import Finding, ModelCheck
from megatron_packing.megatron.any_attention import AnyAttention
from megatron_packing.megatron.batch import get_batch, run_model
from megatron_packing.megatron.hybrid_layer_spec import local_hybrid_spec
from megatron_packing.megatron.isolation_report import Figures
from megatron_packing.megatron.isolation_rows import RowLayout
from megatron_packing.megatron.isolation_run import CheckedRun
from megatron_packing.megatron.isolation_verdict import Verdict, judge_run
from megatron_packing.megatron.layer_spec import local_layer_spec, multi_token_spec
from megatron_packing.megatron.loss import loss_func
from megatron_packing.megatron.multi_token import has_multi_token_layers
from megatron_packing.megatron.small_flags import arguments_of_small_model
from megatron_packing.megatron.small_rows import random_sample
from megatron_packing.megatron.small_sizes import VOCABULARY
from megatron_packing.megatron.trainer import (
    check_own_layers,
    give_multi_token_layers,
    set_fields_that_megatron_skips,
    use_packed_layers,
)
from megatron_packing.thd.layout import positions_of

_ROWS = 3
_ONE_PROCESS = " on pipeline stage 0, context-parallel rank 0"
"""What the packing check says of each place, which says nothing here."""


def check_flags(given: str, *, on_cpu: bool) -> ModelCheck:
    """Check the model that flags of a pretrain script ask for, made small.

    Args:
        given: The flags, or a file that has them.
        on_cpu: Whether stand-ins of CUDA are in place.

    Raises:
        InputError: A flag is wrong, or the model cannot be built or run here.
    """
    with one_process(on_cpu=on_cpu):
        args, left_out = arguments_of_small_model(given, on_cpu=on_cpu)
        with plain_errors("be built"):
            model = _build(args, on_cpu=on_cpu)
        return check_built(
            model, args, on_cpu=on_cpu, has_own_layers=args.spec is not None, left_out=left_out
        )


@contextlib.contextmanager
def one_process(*, on_cpu: bool) -> Iterator[None]:
    """Be the only rank of a run."""
    backend, store = "gloo" if on_cpu else "nccl", torch.distributed.HashStore()
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        torch.default_generator.manual_seed(1)
        model_parallel_cuda_manual_seed(1)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Say in one sentence what Megatron's code raises as a small model is built or run."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what a model raises says what it cannot do
        said = " ".join(str(error).split())[:300] or type(error).__name__
        where = "on a CPU" if _is_cpu() else "here"
        raise InputError(
            f"the small model cannot {what} {where} ({said}); start the run with --packing-check, "
            f"which looks at the model itself"
        ) from error


def check_built(
    model: Any, args: Namespace, *, on_cpu: bool, has_own_layers: bool, left_out: list[str]
) -> ModelCheck:
    """Check a model that is built, on random rows.

    Args:
        model: A GPTModel or a HybridModel, on its device.
        args: Megatron's arguments of the check.
        on_cpu: Whether stand-ins of CUDA are in place.
        has_own_layers: Whether the layers are those of the user, not Megatron's local ones.
        left_out: Flags that were left out.

    Raises:
        InputError: The model cannot be run.
    """
    if any(isinstance(module, DotProductAttention) for module in model.modules()):
        raise InputError(
            "the layers of the model have Megatron's DotProductAttention, which takes no packed "
            "rows; leave --spec out, or give layers whose attention takes cu_seqlens"
        )
    config = get_model_config(model)
    verdicts = []
    for seed in range(_ROWS):
        with plain_errors("run a packed row"):
            verdicts.append(_judge(model, args, seed))
    implementation = "own" if has_own_layers else config.transformer_impl
    return ModelCheck(
        model=type(_inner(model)).__name__,
        num_layers=config.num_layers,
        num_parameters=sum(one.numel() for one in model.parameters()),
        kinds=_kinds(model),
        stand_ins=(),
        findings=(_finding(verdicts, implementation),),
        remarks=tuple(_remarks(on_cpu=on_cpu, has_own_layers=has_own_layers, left_out=left_out)),
    )


def local_layers(config: Any, vp_stage: int | None = None) -> Any:
    """Return local layers of a GPTModel whose attention is computed in plain torch.

    Args:
        config: A ``GPTModelConfig``, or a model provider of Megatron-Bridge.
        vp_stage: Always None here.
    """
    return local_layer_spec(getattr(config, "transformer", config), vp_stage, AnyAttention)


def _build(args: Namespace, *, on_cpu: bool) -> Any:
    """Return the model of arguments, in training mode and on its device."""
    is_hybrid = args.hybrid_layer_pattern is not None
    config = hybrid_config_from_args(args) if is_hybrid else gpt_config_from_args(args)
    check_own_layers(config, args)
    if args.spec is not None or on_cpu:
        set_fields_that_megatron_skips(config, args)
    else:
        use_packed_layers(config, args)
    if args.spec is None and on_cpu and is_hybrid:
        config.hybrid_stack_spec = local_hybrid_spec(config.transformer, AnyAttention)
    elif args.spec is None and on_cpu:
        config.transformer_layer_spec = local_layers
        if args.mtp_num_layers:
            give_multi_token_layers(
                config, lambda stage: multi_token_spec(config.transformer, stage, AnyAttention)
            )
    config.finalize()
    groups = ProcessGroupCollection.use_mpu_process_groups()
    return on_device(config.get_builder_cls()(config).build_model(groups))


def on_device(model: Any) -> Any:
    """Return a model in training mode, on its device and in its precision."""
    config = get_model_config(model)
    if not _is_cpu():
        model.cuda()
    if config.params_dtype is not torch.float32:
        model = Float16Module(config, model)
    return model.train()


def _is_cpu() -> bool:
    return torch.empty(0, device="cuda").device.type == "cpu"


def _step(data_iterator: Any, model: Any) -> tuple[Any, Any]:
    """Run a row, as the forward step of a run does."""
    multi_token = has_multi_token_layers(get_model_config(model))
    batch = get_batch(data_iterator, multi_token=multi_token)
    output = run_model(model, batch)
    own = partial(loss_func, batch.loss_mask, batch.denominator, further=batch.figures)
    return output, own


def _judge(model: Any, args: Namespace, seed: int) -> Verdict:
    told = args.packing_position_ids or positions_of(args.packing_attention)
    sample = random_sample(
        seed,
        VOCABULARY,
        restarts=told == "restart",
        with_padding_mask=args.num_experts is not None,
    )
    run = CheckedRun(
        forward_step=_step,
        model=[model],
        args=args,
        schedule={},
        sample=sample,
        layout=RowLayout.of(sample),
        restarts=told == "restart",
    )
    verdict = judge_run(run)
    if verdict is None:
        raise InputError("the model gives no loss for each position, so it cannot be checked")
    return verdict


def _finding(verdicts: list[Verdict], implementation: str) -> Finding:
    figures = [Figures.of(verdict.findings) for verdict in verdicts]
    fault = next((verdict.fault for verdict in verdicts if verdict.fault), None)
    return Finding(
        rows="cu_seqlens",
        attention=implementation,
        outcome=fault.outcome if fault else "apart",
        moved=max(one.moved for one in figures),
        alone=max(one.alone for one in figures),
        gradient=max(one.gradient or 0.0 for one in figures),
        fault=fault.what.replace(_ONE_PROCESS, "") if fault else "",
        layer=fault.place.replace(_ONE_PROCESS, "") if fault else "",
        cause=fault.cause.removeprefix("likely ") if fault else "",
    )


def _inner(model: Any) -> Any:
    return model.module if isinstance(model, Float16Module) else model


def _kinds(model: Any) -> tuple[str, ...]:
    """Return the classes of what mixes positions in the layers."""
    mixers = (
        getattr(layer, "mixer", None) or getattr(layer, "self_attention", None)
        for layer in _inner(model).decoder.layers
    )
    names = (type(mixer).__name__ for mixer in mixers if mixer is not None)
    return tuple(dict.fromkeys(name for name in names if name != "IdentityOp"))


def _remarks(*, on_cpu: bool, has_own_layers: bool, left_out: list[str]) -> Iterator[str]:
    version = megatron.core.__version__
    if on_cpu and not has_own_layers:
        yield (
            f"These were local layers of megatron-core {version} with attention in plain torch, in "
            f"float32 on the CPU: not Transformer Engine. --packing-check looks at the kernels of "
            f"your run as it starts."
        )
    elif on_cpu:
        yield (
            f"These were your own layers in megatron-core {version}, in float32 on the CPU. "
            f"--packing-check looks at the kernels of your run as it starts."
        )
    else:
        yield (
            f"These were the layers of megatron-core {version} that the run has, on one GPU. "
            f"--packing-check looks at its parallel layout as it starts."
        )
    if left_out:
        yield f"Left out, as they do not choose layers: {', '.join(left_out)}."
