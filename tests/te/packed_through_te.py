# SPDX-License-Identifier: Apache-2.0
"""Trains megatron-core's GPTModel on packed rows through Transformer Engine's layers, on the CPU.

Run by the tests beside it, in ranks forked from ``newest`` or ``oldest``. Prints one JSON object.

    alone OPTION           each document of a row against the same document alone
    row OPTION FILE        save the losses and gradients of a row on one rank
    shared OPTION FILE KIND    the same row under context parallelism, against FILE
    swapped OPTION FILE KIND   the same, but two chunks of a document change places
    fault NAME             a row with a planted fault, against the row without
    waits OPTION TENSOR PIPELINE SEQUENCE   where the host would wait for the GPU in a step, and
                           the messages of get_batch, on ranks of that parallelism
    operations OPTION      those of a step on each of 50 packs
    rotation FOLDER        what use_packed_data changes in models of Megatron-Bridge
    waits of bridge FOLDER PINNED   where its own get_batch would wait
    table, refusals, settings, paths   what backend_table.py says
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from cpu_trainer import run_cuda_code_on_cpu

from tests.te.fake.calls import CALLS
from tests.te.fake.install import install, take_float32_for_half_precision
from tests.te.fake.shapes import recorded_operations
from tests.te.fake.waits import on_host, recorded_waits
from tests.te.wheels import wheel_folder

install(wheel_folder(os.environ["PACKING_TEST_TE_RELEASE"]))
run_cuda_code_on_cpu()

import numpy as np
import torch
import transformer_engine.pytorch  # noqa: F401
from megatron.core import parallel_state
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from megatron.core.transformer.enums import AttnMaskType

from megatron_packing.megatron import batch as batches
from megatron_packing.megatron.layer_spec import packed_layer_spec, packed_multi_token_spec
from megatron_packing.thd.layout import place
from tests.te.backend_table import check_paths, check_settings, make_table, refusals

ROW, VOCABULARY, WIDTH = 256, 256, 9
DOCUMENTS = (60, 33, 7, 100)
YARN = {
    "yarn_rotary_scaling_factor": 32.0,
    "yarn_original_max_position_embeddings": 64,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_mscale": None,
    "yarn_mscale_all_dim": None,
    "yarn_correction_range_round_to_int": False,
}
LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 16,
    "num_query_groups": None,
    "multi_latent_attention": True,
    "apply_rope_fusion": False,
    "rotary_scaling_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Changes to the config of each option.
OPTIONS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "unfused rotation": {"apply_rope_fusion": False},
    "interleaved": {"rotary_interleaved": True},
    "interleaved, unfused": {"rotary_interleaved": True, "apply_rope_fusion": False},
    "window": {"window_size": (16, 0)},
    "sink": {"softmax_type": "off-by-one"},
    "learnable sink": {"softmax_type": "learnable"},
    "learnable sink, window": {"softmax_type": "learnable", "window_size": (16, 0)},
    "norm of queries and keys": {"qk_layernorm": True},
    "LayerNorm and biases": {
        "normalization": "LayerNorm",
        "add_bias_linear": True,
        "add_qkv_bias": True,
        "gated_linear_unit": False,
        "activation_func": torch.nn.functional.gelu,
    },
    "learned positions": {"position_embedding_type": "learned_absolute"},
    "yarn": {"position_embedding_type": "yarn", "apply_rope_fusion": False},
    "fused yarn": {"position_embedding_type": "yarn"},
    "latent": LATENT | {"rope_type": "rope"},
    "latent, yarn": LATENT | {"rope_type": "yarn"},
    "multi-token prediction": {"mtp_num_layers": 2},
}


def start(context_parallel_size: int = 1, **sizes: Any) -> None:
    """Start torch.distributed and Megatron's groups as the environment says."""
    take_float32_for_half_precision()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel(context_parallel_size=context_parallel_size, **sizes)
    model_parallel_cuda_manual_seed(1, inference_rng_tracker=True)


def make_model(option: str, *, is_checked: bool = True, **layout: Any) -> GPTModel:
    """Build the model of an option; the same weights in every process."""
    settings = {
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_query_groups": 4,
        "kv_channels": 16,
        "ffn_hidden_size": 128,
        "use_cpu_initialization": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "gated_linear_unit": True,
        "activation_func": torch.nn.functional.silu,
        "apply_rope_fusion": True,
        "transformer_impl": "transformer_engine",
        "calculate_per_token_loss": True,
        "gradient_accumulation_fusion": False,
        "bias_activation_fusion": False,
        "masked_softmax_fusion": False,
        **OPTIONS[option],
        **layout,
    }
    position_embedding = settings.pop("position_embedding_type", "rope")
    is_latent = settings.get("multi_latent_attention")
    config = (MLATransformerConfig if is_latent else TransformerConfig)(**settings)
    if position_embedding == "yarn":
        for name, value in YARN.items():
            setattr(config, name, value)
    spec = (
        packed_layer_spec(config)
        if is_checked
        else get_gpt_decoder_block_spec(config, use_transformer_engine=True)
    )
    torch.default_generator.manual_seed(0)
    model = GPTModel(
        config,
        spec,
        vocab_size=VOCABULARY,
        max_sequence_length=ROW,
        position_embedding_type=position_embedding,
        share_embeddings_and_output_weights=False,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        mtp_block_spec=packed_multi_token_spec(config) if config.mtp_num_layers else None,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("softmax_offset"):
            torch.nn.init.uniform_(parameter.data, -1, 1)
    return model


def sample_of(
    tokens: torch.Tensor, labels: torch.Tensor, lengths: tuple[int, ...], width: int, alignment: int
) -> dict[str, torch.Tensor]:
    """Return a row as a dataset does, with every real position trained."""
    placement = place(np.array(lengths), len(tokens), width, alignment=alignment)
    longest = int(np.diff(placement.cu_seqlens).max())
    return {
        "tokens": tokens,
        "labels": labels,
        "position_ids": torch.from_numpy(placement.position_ids()),
        "loss_mask": torch.from_numpy(~placement.padding_mask()).float(),
        "cu_seqlens": torch.from_numpy(placement.cu_seqlens),
        "real_lengths": torch.from_numpy(placement.real_lengths),
        # As RowShape: never the length of the row.
        "max_seqlen": torch.tensor(longest + alignment * (longest == len(tokens))),
        "denominator": torch.tensor(sum(lengths)),
    }


def whole_row(alignment: int = 1) -> dict[str, torch.Tensor]:
    """Return the row that all checks use."""
    generator = torch.Generator().manual_seed(3)
    tokens, labels = torch.randint(0, VOCABULARY, (2, ROW), generator=generator)
    return sample_of(tokens, labels, DOCUMENTS, WIDTH, alignment)


def batch_of(sample: dict[str, torch.Tensor]) -> batches.PackedBatch:
    return batches.get_batch(iter(torch.utils.data.DataLoader([sample], batch_size=1)))


def losses(model: GPTModel, batch: batches.PackedBatch) -> torch.Tensor:
    """Run forward and backward on the sum of the trained losses; return the losses."""
    found = batches.run_model(model, batch)[0]
    (found * batch.loss_mask[0]).sum().backward()
    return found.detach()


def gradients(model: GPTModel) -> dict[str, torch.Tensor]:
    """Return the gradients by name, and set them to None."""
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of all gradients, relative to the norm."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(x.square().sum() for x in expected.values())).sqrt())


def compare_alone(option: str) -> dict[str, Any]:
    start()
    model = make_model(option)
    row = whole_row()
    packed = losses(model, batch_of(row))
    kernels = [*CALLS]
    in_row = gradients(model)
    starts = row["cu_seqlens"].tolist()
    worst = 0.0
    for first, length in zip(starts, DOCUMENTS, strict=False):
        part = slice(first, first + length)
        document = sample_of(row["tokens"][part], row["labels"][part], (length,), 3, 1)
        found = losses(model, batch_of(document))
        worst = max(worst, float((found - packed[part]).abs().max()))
    return {
        "loss": worst,
        "gradient": relative(gradients(model), in_row),
        "calls": kernels,
        "longest": int(row["max_seqlen"]),
    }


def save_row(option: str, path: str) -> dict[str, Any]:
    start()
    model = make_model(option)
    torch.save((losses(model, batch_of(whole_row(8))), gradients(model)), path)
    return {"saved": path}


def compare_shared(
    option: str, path: str, kind: str, *, is_swapped: bool = False
) -> dict[str, Any]:
    size = int(os.environ["WORLD_SIZE"])
    levels = {"hierarchical_context_parallel_sizes": [2, size // 2]} if "+" in kind else {}
    start(size, **levels)
    is_checked = option != "learnable sink"
    model = make_model(
        option, is_checked=is_checked, context_parallel_size=size, cp_comm_type=kind, **levels
    )
    expected, expected_gradients = torch.load(path)
    row = whole_row(8)
    batch = batch_of(row)
    if is_swapped:
        batch = _with_swapped_chunks(batch)
    held = batches.partition_indices(
        row["cu_seqlens"], size, parallel_state.get_context_parallel_rank()
    )
    found = losses(model, batch)
    difference = ((found - expected[held]) * batch.loss_mask[0]).abs().max()
    torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    summed = gradients(model)
    for gradient in summed.values():
        torch.distributed.all_reduce(gradient)
    ratios = {
        name.rpartition(".")[2]: float(gradient.norm() / expected_gradients[name].norm())
        for name, gradient in summed.items()
        if name.endswith("softmax_offset")
    }
    others = [name for name in summed if not name.endswith("softmax_offset")]
    return {
        "loss": float(difference),
        "gradient": relative(
            {name: summed[name] for name in others},
            {name: expected_gradients[name] for name in others},
        ),
        "ratios": ratios,
        "calls": [*CALLS],
    }


def _with_swapped_chunks(batch: batches.PackedBatch) -> batches.PackedBatch:
    """Exchange the two chunks of the first document that this rank holds."""
    order = torch.arange(batch.tokens.shape[1])
    chunk = int(batch.packed_seq_params.cu_seqlens_q[1]) // (2 * int(os.environ["WORLD_SIZE"]))
    order[: 2 * chunk] = order[: 2 * chunk].roll(chunk)
    names = ("tokens", "labels", "position_ids", "loss_mask")
    return replace(batch, **{name: getattr(batch, name)[:, order] for name in names})


def plant_fault(name: str) -> dict[str, Any]:
    """Return by how much a fault changes losses, or the error that it raises."""
    start()
    options = {"factor": ("yarn", "fused yarn")}
    # Rotary embeddings would raise an error before attention does.
    options["longest"] = options["cover"] = ("learned positions",) * 2
    right, wrong = options.get(name, ("grouped queries",) * 2)
    reference = make_model(right)
    batch = batch_of(whole_row())
    expected = losses(reference, batch)
    model = make_model(wrong)
    packed = batch.packed_seq_params
    offsets = packed.cu_seqlens_q
    if name == "factor":
        batches._check_scaling = lambda _: None
    elif name == "mask":
        for layer in model.decoder.layers:
            layer.self_attention.attn_mask_type = AttnMaskType.no_mask
    elif name == "longest":
        packed.max_seqlen_q = packed.max_seqlen_kv = 99
    elif name == "cover":
        packed.cu_seqlens_q = packed.cu_seqlens_kv = offsets.clamp(max=ROW - 8)
    elif name == "int64":
        packed.cu_seqlens_q = packed.cu_seqlens_kv = offsets.long()
    try:
        found = losses(model, batch)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"difference": float(((found - expected) * batch.loss_mask[0]).abs().max())}


def find_waits(
    option: str,
    tensor: str = "1",
    pipeline: str = "1",
    sequence: str = "",
    *,
    is_megatrons: bool = False,
) -> dict[str, Any]:
    """Return where hosts would wait in the second step, and the messages of its get_batch.

    A pipeline stage gets random activations and gradients in place of its neighbors'.
    """
    sizes = {
        "tensor_model_parallel_size": int(tensor),
        "pipeline_model_parallel_size": int(pipeline),
    }
    start(**sizes)
    layout = {"sequence_parallel": bool(sequence), "pipeline_dtype": torch.float32, **sizes}
    model = make_model(option, num_layers=2 * int(pipeline), **layout)
    if is_megatrons:
        rope_utils._apply_rotary_pos_emb_thd = rope_utils._apply_rotary_pos_emb_thd.__wrapped__
    group = parallel_state.get_tensor_model_parallel_group()
    reads = parallel_state.get_tensor_model_parallel_rank() == 0
    loader = torch.utils.data.DataLoader([whole_row()], batch_size=1)
    held = ROW // (int(tensor) if sequence else 1)
    report: dict[str, Any] = {}
    for step in ("first", "second"):
        activations = torch.randn(held, 1, 64, requires_grad=True)
        (row,) = loader
        with recorded_waits(group) as (waits, messages):
            batch = batches.get_batch(iter([on_host(row)]) if reads else None)
            report[f"{step} messages"] = [*messages]
            if not parallel_state.is_pipeline_first_stage():
                model.set_input_tensor(activations)
            output = batches.run_model(model, batch)
            if batch.loss_mask is not None:
                output = output * batch.loss_mask
            output.backward(torch.ones_like(output))
            report[f"{step} waits"] = [*waits]
            bool(batch.real_lengths.sum())  # the record works
            report["control"] = len(waits) - len(report[f"{step} waits"])
    reports: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(reports, report)
    return {"ranks": reports}


def record_operations(option: str) -> dict[str, Any]:
    """Return how the steps on 50 packs differ in operations and calls of kernels."""
    start()
    model = make_model(option)
    random = np.random.default_rng(5)
    tokens, labels = torch.randint(0, VOCABULARY, (2, ROW))
    steps: set[tuple[str, ...]] = set()
    layouts = set()
    for number in range(50):
        ends = np.sort(random.choice(np.arange(1, ROW), random.integers(2, WIDTH - 1), False))
        lengths = tuple(map(int, np.diff(ends, prepend=0).clip(max=ROW // 2)))
        sample = sample_of(tokens, labels, lengths, WIDTH, 1)
        sample["max_seqlen"] = torch.tensor(ROW // 2 + 1)  # one value for all rows of a run
        batch = batch_of(sample)
        CALLS.clear()
        with recorded_operations() as operations:
            losses(model, batch)
        model.zero_grad(set_to_none=True)
        if number:  # the first makes tables of angles
            steps.add((*operations, *map(str, CALLS)))
            layouts.add(lengths)
    differing = {one for step in steps for one in step} - set.intersection(*map(set, steps))
    return {
        "layouts": len(layouts),
        "steps": len(steps),
        "operations": len(operations),
        "differing": sorted(differing)[:20],
    }


def ask_bridge(what: str, *arguments: str) -> dict[str, Any]:
    """Return what a function of bridge_through_te.py says, which imports Megatron-Bridge."""
    from tests.te import bridge_through_te

    start()
    return getattr(bridge_through_te, what)(*arguments)


CHECKS = {
    "rotation": partial(ask_bridge, "change_rotation"),
    "waits of bridge": partial(ask_bridge, "find_waits"),
    "operations": record_operations,
    "waits": find_waits,
    "waits of megatron": partial(find_waits, is_megatrons=True),
    "alone": compare_alone,
    "row": save_row,
    "shared": compare_shared,
    "swapped": partial(compare_shared, is_swapped=True),
    "fault": plant_fault,
    "table": lambda: {"table": make_table()},
    "refusals": refusals,
    "settings": check_settings,
    "paths": check_paths,
}


def main() -> None:
    """Run the check of ``sys.argv``."""
    sys.stdout.write(json.dumps(CHECKS[sys.argv[1]](*sys.argv[2:])) + "\n")
