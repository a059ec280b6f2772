# SPDX-License-Identifier: Apache-2.0
"""Predicted steps, held against sums of operations that can be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megatron_packing.errors import InputError
from megatron_packing.flops.models import MODELS
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.costs import Costs, Experts
from megatron_packing.simulate.hardware import DEVICES, Device
from megatron_packing.simulate.layout import Layout
from megatron_packing.simulate.step import predict_steps

FREE = 1e30
FAST_LINKS = Device(
    name="without waiting for links",
    flops=1e12,
    memory=80e9,
    memory_bandwidth=FREE,
    node_bandwidth=FREE,
    network_bandwidth=FREE,
    linear_efficiency=0.5,
    attention_efficiency=0.25,
)


def random_rows(count: int, length: int = 4096) -> Rows:
    random = np.random.default_rng(0)
    return Rows(
        positions=np.full(count, length),
        squares=random.integers(length, length**2, count),
        real_positions=random.integers(1, length, count),
        documents=np.ones(count, int),
    )


@pytest.mark.parametrize(
    "layout",
    [
        Layout(data=1),
        Layout(data=1, tensor=4),
        Layout(data=1, context=2),
        Layout(data=1, tensor=2, context=4),
    ],
)
def test_one_stage_takes_the_time_of_its_operations(layout):
    model, rows = MODELS["8b"], random_rows(6)
    costs = Costs(model=model, layout=layout, device=FAST_LINKS)
    found = predict_steps(costs, rows, np.arange(6).reshape(1, 1, 6))
    linear = 6 * 4096 * model.linear_flops_per_position / 0.5e12
    attention = int(rows.squares.sum()) * model.attention_flops_per_square / 0.25e12
    gpus = layout.gpus_of_a_replica
    assert found.step_seconds == pytest.approx((linear + attention) / gpus)
    assert found.parts.attention == pytest.approx(attention / gpus)
    assert found.parts.linear + found.parts.padding == pytest.approx(linear / gpus)
    share = rows.real_positions.sum() / rows.positions.sum()
    assert found.parts.linear / (linear / gpus) == pytest.approx(share)
    assert found.idle_share == pytest.approx(0, abs=1e-12)


def test_recomputing_takes_a_forward_pass_more_but_for_the_logits():
    model, rows = MODELS["8b"], random_rows(4)
    dealt = np.arange(4).reshape(1, 1, 4)
    costs = Costs(model=model, layout=Layout(data=1), device=FAST_LINKS)
    usual = predict_steps(costs, rows, dealt)
    again = predict_steps(replace(costs, recompute=True), rows, dealt)
    assert again.parts.attention == pytest.approx(usual.parts.attention * 4 / 3)
    layer = model.attention.linear_flops_per_position + model.layer("-").linear_flops_per_position
    layers = model.num_layers * layer
    more = 4 * 4096 * layers / 0.5e12 + usual.parts.attention / 3
    assert again.step_seconds - usual.step_seconds == pytest.approx(more)


@pytest.mark.parametrize(
    "layout", [Layout(data=4, pipeline=4), Layout(data=2, pipeline=4, virtual=2)]
)
@pytest.mark.parametrize("device", [FAST_LINKS, DEVICES["h100"], DEVICES["a800"]])
def test_parts_add_up_and_no_step_is_shorter_than_its_work(layout, device):
    costs = Costs(model=MODELS["70b"], layout=layout, device=device)
    rows = random_rows(3 * layout.data * 8)
    dealt = np.arange(len(rows)).reshape(3, layout.data, 8)
    found = predict_steps(costs, rows, dealt)
    assert found.parts.step == pytest.approx(found.step_seconds)
    assert found.step_seconds >= found.row_seconds.sum() / 3 / layout.gpus
    assert 0 < found.bubble_share < found.idle_share < 1
    assert found.slowest_micro_batch > found.slowest_rank > 1


def test_ranks_that_share_experts_meet_in_every_micro_batch():
    rows, dealt = random_rows(24), np.arange(24).reshape(1, 4, 6)
    experts = Experts(number=8, per_token=2)

    def predicted(expert_parallel):
        layout = Layout(data=4, expert=expert_parallel)
        costs = Costs(model=MODELS["8b"], layout=layout, device=FAST_LINKS, experts=experts)
        return predict_steps(costs, rows, dealt)

    alone, pairs, all_four = (predicted(size) for size in (1, 2, 4))
    slowest = alone.row_seconds[0].max(axis=0).sum()
    assert all_four.step_seconds == pytest.approx(slowest)
    in_pairs = alone.row_seconds[0].reshape(2, 2, 6).max(axis=1).sum(axis=1).max()
    assert pairs.step_seconds == pytest.approx(in_pairs)
    assert alone.parts.experts_wait == 0 < pairs.parts.experts_wait < all_four.parts.experts_wait


def test_equal_rows_leave_the_bubble_of_the_formula_where_stages_are_equal():
    shape = replace(MODELS["8b"], vocabulary_size=1)  # else the last stage has the logits
    layout = Layout(data=2, pipeline=4)
    costs = Costs(model=shape, layout=layout, device=FAST_LINKS)
    rows = random_rows(1).take(np.zeros(16, int))
    found = predict_steps(costs, rows, np.arange(16).reshape(1, 2, 8))
    assert found.bubble_share == pytest.approx(3 / (8 + 3), rel=1e-4)
    assert found.step_seconds == pytest.approx(found.equal_seconds)
    assert found.slowest_rank == found.slowest_micro_batch == pytest.approx(1)


def test_links_memory_and_optimizer_cost_time():
    rows, dealt = random_rows(8), np.arange(8).reshape(1, 2, 4)
    layout = Layout(data=2, tensor=4, context=2)
    fast = predict_steps(Costs(model=MODELS["8b"], layout=layout, device=FAST_LINKS), rows, dealt)
    for field in ("node_bandwidth", "network_bandwidth", "memory_bandwidth"):
        device = replace(FAST_LINKS, **{field: 1e6})
        slow = predict_steps(Costs(model=MODELS["8b"], layout=layout, device=device), rows, dealt)
        assert slow.step_seconds > fast.step_seconds, field


@pytest.mark.parametrize(
    ("model", "layout", "length", "fits"),
    [
        ("8b", Layout(data=1), 8192, False),  # parameters and optimizer alone are 144 GB
        ("8b", Layout(data=4, tensor=2), 8192, True),
        ("70b", Layout(data=1, tensor=8, pipeline=2), 8192, False),
        ("70b", Layout(data=2, tensor=8, pipeline=4), 8192, True),
        ("8b", Layout(data=2, tensor=4), 131072, False),
    ],
)
def test_memory_is_about_that_of_layouts_that_are_known(model, layout, length, fits):
    costs = Costs(model=MODELS[model], layout=layout, device=DEVICES["h100"])
    assert costs.fits(length) is fits


def test_parameters_are_those_of_the_model():
    for name, billions in {"8b": 8.03, "70b": 70.6, "405b": 405.9}.items():
        costs = Costs(model=MODELS[name], layout=Layout(data=1), device=DEVICES["h100"])
        assert costs.parameters_of_a_gpu() / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout(data=0), "the data-parallel size is 0"),
        (lambda: Layout(data=1, virtual=2), "there is one pipeline stage"),
        (lambda: Layout(data=2, expert=4), "must divide context \\* data parallelism"),
        (lambda: Layout.of_gpus(12, tensor=8), "12 GPUs are no multiple of 8"),
        (lambda: Layout(data=8).rows_of_a_rank(12), "global batch size is 12; it must be a mul"),
        (lambda: Layout(data=1, pipeline=4, virtual=2).rows_of_a_rank(6), "needs a multiple of"),
        (lambda: Layout(data=1, pipeline=5).layers_of_chunks(MODELS["8b"]), "32 layers cannot be"),
        (lambda: replace(DEVICES["h100"], flops=0.0), "flops is 0.0; it must be above 0"),
        (lambda: replace(DEVICES["h100"], linear_efficiency=2.0), "linear efficiency is 2.0"),
        (lambda: replace(DEVICES["h100"], layer_seconds=-1.0), "layer seconds is -1.0"),
        (lambda: Experts(number=2, per_token=3), "3 of 2 experts"),
        (
            lambda: Costs(
                model=MODELS["8b"], layout=Layout(data=1, tensor=5), device=DEVICES["h100"]
            ),
            "32 attention heads cannot be shared by 5",
        ),
        (
            lambda: Costs(
                model=MODELS["8b"], layout=Layout(data=2, expert=2), device=DEVICES["h100"]
            ),
            "1 experts cannot be shared by 2",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_126_layers_share_16_stages_with_embedding_and_loss():
    layers = Layout(data=1, pipeline=16).layers_of_chunks(MODELS["405b"])
    assert [stage[0] for stage in layers] == [7, *[8] * 14, 7]
