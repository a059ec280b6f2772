# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
from argparse import ArgumentParser, Namespace

import numpy as np
import pytest

pytest.importorskip("megatron.core")

import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.utils import Split

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape, WorkModel
from megatron_packing.megatron.arguments import add_packing_arguments, check_packing_arguments
from megatron_packing.megatron.balance import BalancedDataset, balance_steps, work_model_of
from megatron_packing.stream.balance import balance_batch
from megatron_packing.stream.even_order import EvenSettings
from tests import trainer
from tests.conftest import chat_like_lengths, write_corpus
from tests.core.test_balance import loads
from tests.megatron.test_dataset import ROW, build
from tests.trainer import needs_trainer, pretrain

BATCH = 12
RANKS = 4
ATTENTION = WorkModel(per_token=0, per_squared_length=1)
SHAPE = {
    "name": "small",
    "num_layers": 3,
    "hidden_size": 64,
    "ffn_hidden_size": 256,
    "num_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 16,
}


def test_the_work_of_a_shape_is_what_its_matrices_say():
    model = ModelShape(**SHAPE).work_model()
    weights = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 256
    assert model.per_token / model.per_squared_length == (2 * weights) / (2 * 64)
    assert model.work(np.array([3, 5])) == model.per_token * 8 + model.per_squared_length * 34


def test_rows_of_a_model_without_attention_are_equal_work():
    shape = ModelShape(**SHAPE | {"hybrid_layer_pattern": "M-M", "num_layers": 3})
    model = shape.work_model()
    assert model.work(np.array([3, 5])) == model.work(np.array([8])) > 0


@pytest.mark.parametrize("numbers", [(-1, 1), (1, -1)])
def test_negative_work_is_refused(numbers):
    with pytest.raises(ValueError, match="must be at least 0"):
        WorkModel(*numbers)


@pytest.fixture
def train(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(500, longest=ROW))
    (train, _, _) = build([corpus.prefix], tmp_path, sizes=(5 * BATCH + 5, None, None))
    return train


def balanced(dataset, **changes) -> BalancedDataset:
    settings = {
        "global_batch_size": BATCH,
        "data_parallel_size": RANKS,
        "work_model": ATTENTION,
        **changes,
    }
    return BalancedDataset(dataset, **settings)


def sources(dataset) -> list[int]:
    return [dataset.source(i) for i in range(len(dataset))]


def heaviest_rank(dataset, samples) -> int:
    """The work of the heaviest rank where the samples of a batch stand in this order."""
    costs = [ATTENTION.work(dataset.segment_lengths(sample)) for sample in samples]
    return loads(costs, np.arange(len(costs)), RANKS).max()


def test_segment_lengths_are_those_of_the_sample(train):
    for i in range(len(train)):
        lengths = np.diff(train[i]["cu_seqlens"].numpy())
        assert train.segment_lengths(i).tolist() == lengths[lengths > 0].tolist()
        assert train.segment_lengths(i).sum() == ROW


def test_batches_keep_their_members_and_ranks_get_equal_work(train):
    dataset = balanced(train)
    assert len(dataset) == len(train)
    found = sources(dataset)
    assert found != list(range(len(train)))
    heaviest = []
    for start in range(0, 5 * BATCH, BATCH):
        batch = list(range(start, start + BATCH))
        dealt = found[start : start + BATCH]
        assert sorted(dealt) == batch
        work = [heaviest_rank(train, samples) for samples in (batch, dealt)]
        assert work[1] <= work[0]
        heaviest.append(work)
    before, after = np.sum(heaviest, axis=0)
    assert after < 0.95 * before
    assert found[5 * BATCH :] == list(range(5 * BATCH, len(train)))  # the incomplete batch
    for i in range(len(train)):
        for name, value in train[found[i]].items():
            assert torch.equal(dataset[i][name], value)


def test_samples_depend_on_their_place_alone(train):
    expected = sources(balanced(train))
    late = balanced(train)
    for i in np.random.default_rng(0).permutation(len(train)):
        assert late.source(int(i)) == expected[i]
    assert sources(pickle.loads(pickle.dumps(late))) == expected


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_samples(train, num_workers):
    dataset = balanced(train)
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=num_workers)
    for i, batch in enumerate(loader):
        assert torch.equal(batch["tokens"][0], train[dataset.source(i)]["tokens"])
    assert i == len(train) - 1


@pytest.mark.parametrize("consumed", [BATCH, 7, 2 * BATCH + 1])
def test_batches_start_where_training_goes_on(train, consumed):
    found = sources(balanced(train, first_sample=consumed))
    for start in range(consumed, len(train) - BATCH, BATCH):
        assert sorted(found[start : start + BATCH]) == list(range(start, start + BATCH))
    assert sorted(found) == list(range(len(train)))
    later = sources(balanced(train, first_sample=consumed + BATCH))
    assert later == found


def test_batches_that_grow_keep_their_members(train):
    schedule = [(0, RANKS), (2 * RANKS, BATCH)]
    found = sources(balanced(train, schedule=schedule, first_sample=RANKS))
    batches = [range(RANKS), range(RANKS, 2 * RANKS), *(
        range(start, start + BATCH) for start in range(2 * RANKS, len(train) - BATCH, BATCH)
    )]  # fmt: skip
    dealt = [found[batch.start : batch.stop] for batch in batches]
    assert [sorted(one) for one in dealt] == [list(batch) for batch in batches]
    assert found != sorted(found)
    with pytest.raises(InputError, match="--step-batch-size-schedule has 6, which 4 data-parallel"):
        balanced(train, schedule=[(0, RANKS), (8, 6)])
    balanced(train, schedule=[(0, 6), (8, RANKS)], first_sample=20)  # it is past the 6


@needs_trainer
def test_a_schedule_of_batch_sizes_trains_the_same_batches_balanced(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(300, longest=ROW))
    schedule = f"0:4,{8 * trainer.ROW}:8"
    flags = (
        f"--data-path {corpus.prefix} --data-cache-path {tmp_path / 'cache'} --train-iters 4 "
        f"--step-batch-size-schedule {schedule}"
    )
    runs = [
        pretrain(f"{flags} {balance}", 2, without="--global-batch-size 4")
        for balance in ("", "--packing-balance")
    ]
    assert [len(rows) for rows in runs[0].rows.values()] == [4, 4, 8, 8]
    assert runs[0].rows == runs[1].rows
    assert runs[0].reads != runs[1].reads
    for one, other in zip(*(run.steps for run in runs), strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)


def test_a_schedule_and_phases_are_refused_together():
    both = {"step_batch_size_schedule": "0:4 1B:8", "phase_transition_iterations": [5]}
    check_packing_arguments(arguments(**both))
    with pytest.raises(InputError, match="--phase-transition-iterations counts samples anew"):
        check_packing_arguments(arguments("--packing-balance", **both))


def test_packs_of_a_blend_are_balanced(tmp_path):
    corpora = [
        write_corpus(tmp_path / name, chat_like_lengths(200, longest=ROW, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]
    (blend, _, _) = build(
        [],
        tmp_path,
        sizes=(40, 0, 0),
        path_to_cache=None,  # 0.16.1 asks for a process group where it writes a blend's cache
        blend=([str(corpus.prefix) for corpus in corpora], [0.25, 0.75]),
    )
    assert isinstance(blend, BlendedDataset)
    dataset = balanced(blend)
    assert dataset.split is Split.train
    for start in range(0, 36, BATCH):
        found = [dataset.source(i) for i in range(start, start + BATCH)]
        assert sorted(found) == list(range(start, start + BATCH))
        assert found != list(range(start, start + BATCH))
        costs = [np.square(np.diff(blend[i]["cu_seqlens"].numpy())).sum() for i in found]
        costs_before = [costs[found.index(i)] for i in range(start, start + BATCH)]
        order = balance_batch(np.array(costs_before, np.int64), RANKS, pipelined=False)
        assert found == (start + order).tolist()
        for i, source in enumerate(found, start):
            assert torch.equal(dataset[i]["tokens"], blend[source]["tokens"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"global_batch_size": 10}, InputError, "--global-batch-size is 10, which 4 data-parallel"),
        ({"global_batch_size": 0}, ValueError, "must be at least 1"),
        ({"data_parallel_size": 0}, ValueError, "must be at least 1"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused(train, changes, error, message):
    with pytest.raises(error, match=message):
        balanced(train, **changes)


def arguments(*flags: str, **changes) -> Namespace:
    """What Megatron's arguments hold after its own checks."""
    args = add_packing_arguments(ArgumentParser()).parse_args(flags)
    settings = {
        "micro_batch_size": 1,
        "context_parallel_size": 1,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "sequence_parallel": False,
        "transformer_impl": "local",
        "seq_length": ROW,
        "position_embedding_type": "rope",
        "num_experts": None,
        "create_attention_mask_in_dataloader": False,
        "calculate_per_token_loss": True,
        "dataloader_type": "single",
        "rampup_batch_size": None,
        "global_batch_size": BATCH,
        "data_parallel_size": RANKS,
        "consumed_train_samples": BATCH + 2,
        "group_query_attention": False,
        "hidden_size": 64,
        "ffn_hidden_size": 256,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 16,
        "swiglu": True,
        "mtp_num_layers": None,
        "num_layers": 3,
        "hybrid_layer_pattern": None,
        "experimental_attention_variant": None,
        "linear_attention_freq": None,
        "mamba_state_dim": 16,
        "mamba_head_dim": 16,
        "mamba_num_groups": 1,
        "mamba_num_heads": None,
        **changes,
    }
    vars(args).update(settings)
    return args


def test_the_flag_decides(train):
    assert balance_steps(train, arguments()) is train
    assert balance_steps(None, arguments("--packing-balance")) is None
    dataset = balance_steps(train, arguments("--packing-balance"))
    model = ModelShape(**SHAPE | {"num_query_groups": SHAPE["num_heads"]}).work_model()
    expected = balanced(train, first_sample=BATCH + 2, work_model=model)
    assert sources(dataset) == sources(expected)
    stages = balance_steps(train, arguments("--packing-balance", pipeline_model_parallel_size=2))
    pipelined = balanced(train, first_sample=BATCH + 2, work_model=model, pipelined=True)
    assert sources(stages) == sources(pipelined) != sources(dataset)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"hybrid_layer_pattern": "MG*-|M+DE"}, "MG*-M**-"),
        (
            {"experimental_attention_variant": "gated_delta_net", "linear_attention_freq": 3},
            "G-G-*-",
        ),
        (
            {
                "experimental_attention_variant": "gated_delta_net",
                "linear_attention_freq": [0, 1, 1],
            },
            "*-G-G-",
        ),
    ],
)
def test_work_is_that_of_the_layers_that_the_model_has(train, changes, pattern):
    dataset = balance_steps(train, arguments("--packing-balance", **changes))
    sizes = {"num_query_groups": 4, "mamba_state_dim": 16, "mamba_head_dim": 16}
    shape = {"mamba_num_groups": 1, "hybrid_layer_pattern": pattern, "num_layers": len(pattern)}
    assert dataset._work_model == ModelShape(**SHAPE | sizes | shape).work_model()
    assert sources(dataset) != list(range(len(dataset)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 10}, "--global-batch-size is 10, but --packing-balance needs"),
    ],
)
def test_settings_that_balance_cannot_hold_under_are_refused(changes, message):
    check_packing_arguments(arguments(**changes))
    with pytest.raises(InputError, match=message):
        check_packing_arguments(arguments("--packing-balance", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_batch_size_schedule": "0:4 1B:8"}, "0:4 1B:8, but --packing-order even needs"),
        ({"global_batch_size": 10}, "--global-batch-size is 10, but --packing-order even needs"),
        ({"global_batch_size": RANKS}, "even needs at least two: the batches would be sorted"),
    ],
)
def test_settings_under_which_no_order_is_even_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_packing_arguments(arguments("--packing-order", "even", **changes))


def test_ranks_of_an_even_order_have_like_work_in_each_micro_batch(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(3000, longest=ROW))
    model = work_model_of(arguments())
    settings = EvenSettings(
        ranks=RANKS,
        batch=BATCH,
        per_token=model.per_token,
        per_squared_length=model.per_squared_length,
    )
    lost = []
    for order in (None, settings):
        size = (20 * BATCH, None, None)
        (train, _, _) = build([corpus.prefix], tmp_path, sizes=size, packing_even_order=order)
        work = np.array([model.work(train.segment_lengths(i)) for i in range(20 * BATCH)])
        meet = work.reshape(-1, RANKS)
        lost.append(1 - meet.mean(axis=1).sum() / meet.max(axis=1).sum())
    assert lost[1] < 0.5 * lost[0]
