# SPDX-License-Identifier: Apache-2.0
"""The figures of a comparison, held against sums that can be read."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.commands.compare import JSON_KEYS
from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape
from megatron_packing.flops.models import MODELS
from megatron_packing.report import compare
from megatron_packing.report.compare import Comparison, describe_comparison, measure
from megatron_packing.report.json_output import JsonOutput
from tests.conftest import chat_like_lengths
from tests.planning.reference import segments_of

ROW = 64
TINY = ModelShape(
    name="tiny",
    num_layers=3,
    hidden_size=8,
    ffn_hidden_size=20,
    num_heads=4,
    num_query_groups=2,
    vocabulary_size=10,
)


def compared(lengths, *, global_batch_size=4, model=TINY, **options) -> Comparison:
    plans = {name: plan_packs(lengths, ROW, strategy=name, **options) for name in STRATEGIES}
    return Comparison(
        source="lengths",
        sequence_length=ROW,
        global_batch_size=global_batch_size,
        model=model,
        num_documents=len(lengths),
        num_positions=int(lengths.sum()),
        num_documents_dropped=0,
        num_documents_truncated=0,
        num_documents_empty=0,
        num_positions_lost=0,
        plans=tuple(measure(plan, lengths, name, 0.5) for name, plan in plans.items()),
    )


def by_name(comparison: Comparison) -> dict:
    return {plan.strategy: plan for plan in comparison.plans}


@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("block", [1, 7, 1 << 14])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_figures_are_those_of_the_segments(strategy, block, alignment, monkeypatch):
    monkeypatch.setattr(compare, "_BLOCK_PACKS", block)
    lengths = chat_like_lengths(200, longest=3 * ROW)
    plan = plan_packs(lengths, ROW, strategy=strategy, overlong="split", alignment=alignment)
    figures = measure(plan, lengths, strategy, 1.5)

    rows = [[length for _, _, length in row] for row in segments_of(plan, lengths)]
    pieces = [document for row in segments_of(plan, lengths) for document, _, _ in row]
    filled = [sum(-(-length // alignment) * alignment for length in row) for row in rows]
    assert figures.num_packs == len(rows)
    assert figures.num_padding_positions == sum(ROW - sum(row) for row in rows)
    assert figures.utilisation == pytest.approx(sum(map(sum, rows)) / (ROW * len(rows)))
    assert figures.documents_per_pack == pytest.approx(200 / len(rows))
    assert figures.num_documents_split == sum(pieces.count(document) > 1 for document in range(200))
    assert figures.attention_work == sum(length**2 for row in rows for length in row)
    assert figures.attention_work_without_masks == sum(length**2 for length in filled)
    assert figures.seconds == 1.5


def test_attention_work_beyond_64_bits_is_exact():
    plan = plan_packs(np.ones(3000, int), 1, strategy="padding")
    longest = dataclasses.replace(plan, sequence_length=2**26)  # planning it would take seconds
    figures = measure(longest, np.full(3000, 2**26), "padding", 0)
    assert figures.attention_work == figures.attention_work_without_masks == 3000 * 2**52


def test_figures_rise_where_they_must():
    lengths = chat_like_lengths(500, longest=ROW)
    comparison = compared(lengths)
    plans = by_name(comparison)
    whole_documents = int((lengths**2).sum())
    for name, plan in plans.items():
        assert plan.attention_work <= plan.attention_work_without_masks
        assert plan.num_packs >= plans["optimal"].num_packs or name == "random"
        assert plan.num_packs <= plans["padding"].num_packs
        assert comparison.speed_up(plan) >= 1
        if name != "random":
            assert plan.attention_work == whole_documents
            assert plan.num_packs >= comparison.lower_bound
            assert comparison.is_optimal(plan) == (plan.num_packs == comparison.lower_bound)
    assert plans["random"].attention_work < whole_documents
    assert plans["random"].num_documents_split > 0
    assert not comparison.is_optimal(plans["random"])
    assert plans["padding"].attention_work_without_masks == whole_documents
    assert comparison.speed_up(plans["padding"]) == 1
    assert comparison.speed_up(plans["optimal"]) > comparison.speed_up(plans["greedy"]) > 1


def test_the_lower_bound_is_the_best_one_of_whole_documents():
    lengths = np.full(10, 40)  # no two share a row of 64; cut up they fill seven
    comparison = compared(lengths)
    plans = by_name(comparison)
    assert plans["random"].num_packs == plans["random"].lower_bound == 7
    assert comparison.lower_bound == 10
    assert comparison.is_optimal(plans["padding"])
    worse = dataclasses.replace(plans["greedy"], lower_bound=8)
    mixed = dataclasses.replace(comparison, plans=(worse, plans["optimal"]))
    assert mixed.lower_bound == 10


def test_steps_are_counted_in_rows():
    comparison = compared(np.full(9, ROW), global_batch_size=4)
    assert [comparison.steps(plan) for plan in comparison.plans] == [3] * len(STRATEGIES)


def test_flops_are_those_counted_by_hand():
    # A layer's weights: queries and output 8 * 8 each, keys and values 8 * 4 each, MLP 3 * 8 * 20.
    weights = 3 * (64 + 64 + 32 + 32 + 480) + 8 * 10
    assert TINY.linear_flops_per_position == 6 * weights
    # Scores and values of a document of 5, half of it masked, three layers, three passes.
    one_pass = 2 * (2 * 5 * 5 * 8) / 2
    assert TINY.attention_flops_per_square * 5**2 == 3 * 3 * one_pass
    assert TINY.epoch_flops(2, 64, 25) == 6 * weights * 128 + 3 * 3 * one_pass


def test_speed_up_is_that_computed_by_hand():
    lengths = np.array([32, 32, 16, 48])
    comparison = compared(lengths)
    plans = by_name(comparison)
    attention = 6 * 3 * 8 * (32**2 + 32**2 + 16**2 + 48**2)
    linear = 6 * 2096 * ROW
    assert (plans["padding"].num_packs, plans["optimal"].num_packs) == (4, 2)
    expected = (4 * linear + attention) / (2 * linear + attention)
    assert comparison.speed_up(plans["optimal"]) == pytest.approx(expected)


def test_the_llama_shapes_have_their_number_of_parameters():
    """Without input embeddings and norms, as the model cards round them."""
    for name, billions in (("8b", 7.5), ("70b", 69.5), ("405b", 403.7)):
        parameters = MODELS[name].linear_flops_per_position / 6
        assert parameters / 1e9 == pytest.approx(billions, abs=0.1)


def test_flops_are_those_of_megatron():
    training = pytest.importorskip("megatron.training.training")
    arguments = type("Arguments", (), {"__getattr__": lambda *_: None})()
    model = MODELS["8b"]
    vars(arguments).update(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.hidden_size // model.num_heads,
        padded_vocab_size=model.vocabulary_size,
        group_query_attention=True,
        swiglu=True,
        seq_length=4096,
    )
    expected = training.num_floating_point_operations(arguments, 16)
    assert model.epoch_flops(16, 4096, 16 * 4096**2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "layers is 0; it must be at least 1"),
        ({"num_heads": 3}, "hidden size is 8; it must be a multiple of its heads, which is 3"),
        ({"num_query_groups": 3}, "heads is 4; it must be a multiple of its query groups"),
    ],
)
def test_impossible_models_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TINY, **sizes)


def test_every_figure_is_written_as_json(tmp_path):
    comparison = compared(chat_like_lengths(50, longest=ROW))
    path = tmp_path / "new" / "figures.json"
    for _ in range(2):  # the second replaces the first
        JsonOutput(path, JSON_KEYS).write(comparison.as_record())
    assert list(path.parent.iterdir()) == [path]
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["lower_bound"] == comparison.lower_bound
    assert record["model"]["num_query_groups"] == 2
    for written, plan in zip(record["plans"], comparison.plans, strict=True):
        assert written["speed_up"] == comparison.speed_up(plan)
        assert written["steps"] == comparison.steps(plan)
        assert {name: written[name] for name in dataclasses.asdict(plan)} == dataclasses.asdict(
            plan
        )


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("factor", [1, 800])
def test_the_table_fits_the_terminal(width, factor):
    comparison = compared(chat_like_lengths(1000, longest=ROW))
    larger = tuple(
        dataclasses.replace(
            plan,
            num_packs=plan.num_packs * factor,
            lower_bound=plan.lower_bound * factor,
            num_padding_positions=plan.num_padding_positions * factor,
            num_documents_split=plan.num_documents_split * factor,
        )
        for plan in (*comparison.plans[:6], comparison.plans[-1])  # as many as 80 columns hold
    )
    comparison = dataclasses.replace(comparison, plans=larger)
    console = Console(width=width, file=io.StringIO())
    console.print(describe_comparison(comparison, width))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for label in ("packs", "above bound", "docs per pack", "  unmasked", "plan seconds"):
        (line,) = (line for line in lines if line.startswith(label + " "))
        assert len(line.split()) == len(label.split()) + len(larger)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (9_994_999, "9.99M"),
        (9_995_001, "10.0M"),
        (99_950_001, "100M"),
        (4 * 10**18, "4.00E"),
    ],
)
def test_counts_are_shortened_without_changing_their_size(count, shown):
    assert compare._short(count) == shown


@pytest.mark.parametrize("width", [40, 55, 69])
def test_a_narrow_terminal_gets_a_row_for_each_strategy(width):
    comparison = compared(chat_like_lengths(1000, longest=ROW))
    console = Console(width=width, file=io.StringIO())
    console.print(describe_comparison(comparison, width))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    figures = compare._figures(comparison)
    headers = " ".join(lines)
    for name in figures:
        assert name.strip() in headers
    for number, strategy in enumerate(STRATEGIES):
        cells = [
            word for line in lines if line.startswith(f"{strategy} ") for word in line.split()[1:]
        ]
        assert cells == [cells_of[number] for cells_of in figures.values()]
