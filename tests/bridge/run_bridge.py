# SPDX-License-Identifier: Apache-2.0
"""Runs Megatron-Bridge's own code on this project's data, in processes of their own.

Prints one JSON object.

    run_bridge.py batches INDEX CONTEXT   what Bridge's loaders and batches make of a provider's
        samples; under context parallelism what each rank holds of them
    run_bridge.py losses INDEX STAGES   losses and gradients by Bridge's step and by this project's
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import fields
from functools import partial
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from tests.bridge import source  # noqa: F401  # isort: skip  # before Megatron

import torch

from tests.bridge.absent import prepare_bridge
from tests.megatron.packed_and_separate import (
    make_model,
)  # first: it puts CUDA's stand-ins in place

prepare_bridge()

import megatron.bridge.training.gpt_step as gpt_step
import megatron.core.utils
from megatron.bridge.data.loaders import setup_data_iterators
from megatron.bridge.data.utils import get_dataset_provider
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.recipes.common import _sft_common
from megatron.bridge.training.state import GlobalState, TrainState
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_packing.bridge.provider import PackedDataProvider
from megatron_packing.bridge.recipe import use_packed_data
from megatron_packing.bridge.versions import bridge_version
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.batch import get_batch, run_model
from megatron_packing.megatron.loss import loss_func
from megatron_packing.thd.context_parallel import partition_indices
from tests.megatron.test_dataset import build

BATCH = 4
STEPS = 3


def make_recipe(index: str, **changes):
    """Bridge's own settings for fine-tuning, with a tiny model, on packed data."""
    cfg = _sft_common()
    cfg.model = GPTModelProvider(
        num_layers=2, hidden_size=64, num_attention_heads=4, seq_length=2048, **changes
    )
    cfg.mixed_precision = None
    cfg.checkpoint.save = cfg.checkpoint.load = None
    cfg.train.train_iters = STEPS
    cfg.train.global_batch_size = BATCH
    use_packed_data(cfg, train=index, validation=index, keep="rows", quiet=True)
    cfg.dataset.num_workers = 0
    cfg.dataset.persistent_workers = False
    return cfg


def iterate(cfg, consumed: int = 0):
    """Bridge's own iterators over training and validation batches."""
    provider = get_dataset_provider(cfg.dataset)
    group = parallel_state.get_data_parallel_group()
    state = TrainState(consumed_train_samples=consumed)
    train, valid, test = setup_data_iterators(cfg, state, 1, provider, group)
    assert test is None
    return train, valid


def cut_as_transformer_engine(cu_seqlens, total_tokens, size, rank):
    """In place of its thd_get_partitioned_indices, which needs a GPU; checks what it is given."""
    assert cu_seqlens.dim() == 1
    assert cu_seqlens[0] == 0
    assert cu_seqlens[-1] == total_tokens
    assert (torch.diff(cu_seqlens) >= 0).all()
    return partition_indices(cu_seqlens, size, rank)


def put_cut_in_place() -> None:
    """Where Bridge 0.3 and megatron-core 0.19 look for it."""
    import transformer_engine_torch

    transformer_engine_torch.thd_get_partitioned_indices = cut_as_transformer_engine
    gpt_step.is_te_min_version = lambda *_: True
    megatron.core.utils.tex = transformer_engine_torch


def own_loader(cfg, *, with_padding_mask: bool = False):
    """The same rows by this project's Megatron dataset."""
    index = PackIndex.open(cfg.dataset.train)
    settings = {
        "packing_indexes": (str(index.path),),
        "random_seed": cfg.dataset.seed,
        "sequence_length": index.plan.sequence_length,
        "context_parallel_size": parallel_state.get_context_parallel_world_size(),
        "packing_with_padding_mask": with_padding_mask,
    }
    cache = index.path.parent / f"cache{os.environ['RANK']}"
    sizes = (STEPS * BATCH, None, None)
    (train, _, _) = build([index.corpus.prefix], cache, sizes, **settings)
    return torch.utils.data.DataLoader(train, batch_size=1)


def bridge_batch(iterator, cfg):
    """Tokens, labels, loss mask, positions, padding mask and PackedSeqParams of gpt_step."""
    groups = ProcessGroupCollection.use_mpu_process_groups()
    tokens, labels, loss_mask, mask, positions, *packed = gpt_step.get_batch(
        iterator, cfg, pg_collection=groups
    )
    assert mask is None
    if len(packed) > 1:  # before 0.6 one value each
        names = ("cu_seqlens", "cu_seqlens_argmin", "max_seqlen")
        packed = [dict(zip(names, packed, strict=False))]
    padding_mask = packed[0].pop("padding_mask", None)
    packed = gpt_step.get_packed_seq_params(packed[0])
    return tokens, labels, loss_mask, positions, padding_mask, packed


def compare_batch(theirs, ours) -> int:
    """Bridge's batch and this project's; how many labels are trained."""
    *rows, padding_mask, packed = theirs
    if bridge_version() < (0, 7):
        assert padding_mask is None
    else:
        assert torch.equal(padding_mask, ours.padding_mask)
    for name, row in zip(("tokens", "labels", "loss_mask", "position_ids"), rows, strict=True):
        assert torch.equal(row, getattr(ours, name)), name
    for field in fields(packed):
        found, expected = getattr(packed, field.name), getattr(ours.packed_seq_params, field.name)
        if torch.is_tensor(expected):
            assert torch.equal(found, expected), field.name
        elif field.name != "pad_between_seqs":  # which Bridge leaves to Transformer Engine
            assert found == expected, field.name
    return int(ours.loss_mask.sum())


def compare_with_provider(cfg, train) -> None:
    """The deprecated form of data, which recipes in YAML may name, gives the same batches."""
    if bridge_version() < (0, 6):
        return
    settings = {one.name: getattr(cfg.dataset, one.name) for one in fields(cfg.dataset)}
    cfg = make_recipe(cfg.dataset.train, context_parallel_size=cfg.model.context_parallel_size)
    assert type(cfg.dataset).__name__ == "PackedDataConfig"
    cfg.dataset = PackedDataProvider(**settings)
    cfg.dataset.remember(cfg, cfg.dataset.open_splits())
    again, _ = iterate(cfg, consumed=STEPS * BATCH)
    for theirs, ours in zip(bridge_batch(again, cfg), bridge_batch(train, cfg), strict=True):
        assert repr(theirs) == repr(ours)


def compare_batches(index: str, context: int) -> dict[str, object]:
    """Bridge's batches of every sample, and this project's; resumed ones and validation too."""
    put_cut_in_place()
    cfg = make_recipe(index, context_parallel_size=context)
    expected = [get_batch(iter([sample])) for sample in own_loader(cfg, with_padding_mask=True)]
    train, _ = iterate(cfg)
    weights = [compare_batch(bridge_batch(train, cfg), ours) for ours in expected]
    cfg.dataset.num_workers = 1  # and in another process
    train, valid = iterate(cfg, consumed=5)
    for ours in expected[5:]:
        compare_batch(bridge_batch(train, cfg), ours)
    compare_with_provider(cfg, train)
    packs = len(PackIndex.open(index))
    evaluation = [bridge_batch(valid, cfg)[0] for _ in range(2 * packs)]  # over its end
    for first, again in zip(evaluation[:packs], evaluation[packs:], strict=True):
        assert torch.equal(first, again)
    rows = {tuple(row.flatten().tolist()) for row in evaluation}
    assert len(rows) == packs
    total = torch.tensor([sum(weights), sum(int(ours.padding_mask.sum()) for ours in expected)])
    torch.distributed.all_reduce(total)
    weights, padding = total.tolist()
    return {"rows": len(expected), "packs": packs, "weights": weights, "padding": padding}


def train_steps(forward_step, iterator, model, row: int) -> dict[str, list]:
    """Losses and gradients of some global batches, by Megatron's schedules."""
    losses, gradients = [], []
    for _ in range(STEPS):
        model.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterator,
            model=model,
            num_microbatches=BATCH,
            seq_length=row,
            micro_batch_size=1,
            forward_only=False,
        )
        sums = sum((report["lm loss"].double() for report in reports), torch.zeros(2).double())
        torch.distributed.all_reduce(sums)  # only the last stage has some
        losses.append((sums[0] / sums[1]).item())
        gradients.append([parameter.grad / sums[1] for parameter in model.parameters()])
    return {"losses": losses, "gradients": gradients}


def compare_losses(index: str, stages: int) -> dict[str, object]:
    """Bridge's forward step over its own batches, and this project's, on the same weights."""
    changes = {} if stages == 1 else {"pipeline_model_parallel_size": stages}
    cfg = make_recipe(index, **changes)
    row = cfg.model.seq_length
    model = make_model(num_layers=max(2, stages), **changes)
    state = GlobalState()
    state.cfg = cfg
    theirs = train_steps(partial(gpt_step.forward_step, state), iterate(cfg)[0], model, row)

    def own_step(iterator, model):
        batch = get_batch(iterator)
        return run_model(model, batch), partial(loss_func, batch.loss_mask, batch.denominator)

    ours = train_steps(own_step, iter(own_loader(cfg)), model, row)
    largest = max(
        (a - b).abs().max().item()
        for step, expected in zip(theirs["gradients"], ours["gradients"], strict=True)
        for a, b in zip(step, expected, strict=True)
    )
    gradient = torch.tensor(largest)
    torch.distributed.all_reduce(gradient, torch.distributed.ReduceOp.MAX)
    return {"bridge": theirs["losses"], "own": ours["losses"], "gradient": gradient.item()}


def main() -> None:
    verb, index, *rest = sys.argv[1:]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    layout = {"batches": "context", "losses": "pipeline_model"}[verb]
    size = int(rest[0])
    store = torch.distributed.FileStore(f"{index}.store{world}", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    parallel_state.initialize_model_parallel(**{f"{layout}_parallel_size": size})
    model_parallel_cuda_manual_seed(1)
    result = (compare_batches if verb == "batches" else compare_losses)(index, size)
    if rank == 0:
        sys.stdout.write(json.dumps({**result, "version": bridge_version()}) + "\n")


if __name__ == "__main__":
    main()
