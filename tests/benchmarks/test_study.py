# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.study import __main__ as study  # noqa: E402
from benchmarks.study.batches import count_trained, lay, plan_steps, rows_of  # noqa: E402
from benchmarks.study.conditions import CAUSES, MAIN, NORMALISERS, Condition  # noqa: E402
from benchmarks.study.models import (  # noqa: E402
    compute_in_bfloat16,
    make_tiny_model,
    packed_loss,
    padded_loss,
    single_loss,
)
from benchmarks.study.results import Result, append_result, read_results  # noqa: E402
from benchmarks.study.table import compare  # noqa: E402
from benchmarks.study.train import Training, train  # noqa: E402
from tests.conftest import write_corpus  # noqa: E402

ROW, EPOCHS, STEPS, VOCABULARY = 64, 3, 12, 96
CONDITIONS = [*MAIN, *CAUSES, *NORMALISERS]
RESULT = Result(
    condition="padding",
    seed=0,
    steps=2,
    documents_per_step=3.5,
    trained_tokens_per_step=70.0,
    token_spread=0.25,
    cpu_seconds=1,
    data="a",
    base="b",
    loss_by_epoch="2.0 1.5",
    loss=1.5,
    document_losses="1000 2000 3000",
)


@pytest.fixture
def corpus(tmp_path):
    lengths = np.random.default_rng(2).integers(6, 50, 60)
    return write_corpus(tmp_path / "corpus", lengths, vocabulary=VOCABULARY)


def stream_of(condition, corpus, seed=0):
    return rows_of(condition, study._index(corpus, condition.strategy, ROW, seed), corpus, seed)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda one: one.name)
def test_steps_train_every_position_once_an_epoch(condition, corpus):
    steps = plan_steps(condition, stream_of(condition, corpus), EPOCHS, STEPS)
    assert len(steps) == STEPS
    assert all(steps)
    seen = Counter(
        (document, at)
        for step in steps
        for row in step
        for document, start, length in row
        for at in range(start, start + length)
    )
    assert seen == {
        (document, at): EPOCHS
        for document, tokens in enumerate(corpus.num_tokens.tolist())
        for at in range(tokens - 1)
    }


def test_conditions_have_names_of_their_own():
    assert len({one.name for one in CONDITIONS}) == len(CONDITIONS)


def test_causes_take_packing_apart(corpus):
    plain = Condition(name="", strategy="optimal")
    rows = stream_of(plain, corpus)

    def documents(**changes):
        steps = plan_steps(replace(plain, **changes), rows, EPOCHS, STEPS)
        return [[int(one) for row in step for one in row.document_ids] for step in steps]

    packed, other, equal = (
        documents(),
        documents(steps="other documents"),
        documents(steps="documents"),
    )
    assert [len(step) for step in other] == [len(step) for step in packed]
    assert other != packed
    assert {len(step) for step in equal} == {15}
    assert [*chain(*equal)] == [*chain(*packed)]


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_steps_have_the_token_spread_that_is_asked_for(corpus, spread):
    condition = Condition(name="", strategy="padding", steps="tokens", spread=spread)
    found = []
    for seed in range(20):
        steps = plan_steps(condition, stream_of(condition, corpus, seed), EPOCHS, STEPS)
        tokens = np.array([sum(count_trained(corpus, row) for row in step) for step in steps])
        found.append(tokens.std() / tokens.mean())
    assert np.mean(found) == pytest.approx(spread, abs=0.05)


@pytest.mark.parametrize("normaliser", ["token", "sequence"])
def test_packed_and_padded_losses_are_those_of_single_documents(corpus, normaliser):
    condition = Condition(name="", strategy="optimal", normaliser=normaliser)
    stream = stream_of(condition, corpus)
    rows = [lay(stream, stream.segments(number)) for number in range(3)]
    model = make_tiny_model(VOCABULARY, ROW, seed=0).double()
    with torch.no_grad():
        by_mask = partial(packed_loss, by_mask=True)
        packed, masked, padded = (
            float(compute(model, rows)) for compute in (packed_loss, by_mask, padded_loss)
        )
    alone = replace(condition, strategy="padding", normaliser="token")
    padding = stream_of(alone, corpus)
    by_document = {
        int(segments.document_ids[0]): lay(padding, segments)
        for segments in map(padding.segments, range(len(corpus)))
    }
    expected = 0.0
    for number in range(3):
        for document in stream.segments(number).document_ids.tolist():
            row = by_document[document]
            times = row.num_trained if normaliser == "token" else 256
            expected += single_loss(model, row) * times if row.num_trained else 0
    assert packed == pytest.approx(expected, rel=1e-6)
    assert masked == pytest.approx(expected, rel=1e-6)
    assert padded == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow  # compiles
def test_losses_in_bfloat16_are_near_those_in_float32(corpus):
    condition = Condition(name="", strategy="optimal")
    stream = stream_of(condition, corpus)
    rows = [lay(stream, stream.segments(number)) for number in range(3)]
    exact, near = (make_tiny_model(VOCABULARY, ROW, seed=0, layers=2) for _ in range(2))
    compute_in_bfloat16(near)
    for compute in (packed_loss, padded_loss):
        losses = [compute(model, rows) for model in (exact, near)]
        for loss in losses:
            loss.backward()
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-3)
        for one, other in zip(exact.parameters(), near.parameters(), strict=True):
            assert other.grad.dtype == torch.float32
            assert torch.linalg.norm(one.grad - other.grad) < 0.02 * torch.linalg.norm(one.grad)


def test_documents_without_a_mask_see_those_before_them(corpus):
    masked = Condition(name="", strategy="optimal")
    losses = []
    for condition in (masked, replace(masked, attention="pack")):
        stream = stream_of(condition, corpus)
        model = make_tiny_model(VOCABULARY, ROW, seed=0)
        with torch.no_grad():
            losses.append(float(packed_loss(model, [lay(stream, stream.segments(0))])))
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(corpus, tmp_path):
    condition = Condition(name="", strategy="optimal")
    rows = stream_of(condition, corpus)
    steps = plan_steps(condition, rows, 1, 4)
    state = tmp_path / "state.pt"

    def run(measure=lambda _: [0.0], **options):
        model = make_tiny_model(VOCABULARY, ROW, seed=0)
        training = Training(learning_rate=1e-2, save_seconds=0)
        run = train(
            model, steps, partial(lay, rows), training, epochs=4, measure=measure, **options
        )
        return run, torch.cat([one.flatten() for one in model.parameters()])

    expected, expected_weights = run()
    calls = []

    def stop_later(_):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [0.0]

    with pytest.raises(KeyboardInterrupt):
        run(stop_later, state=state)
    found, weights = run(state=state)
    assert torch.equal(weights, expected_weights)
    assert found.trained_tokens == expected.trained_tokens
    assert found.documents == expected.documents
    assert found.measured == [[0.0]] * 4


def test_a_file_of_results_survives_a_writer_that_ends_at_any_byte(tmp_path):
    path = tmp_path / "results.csv"
    append_result(path, RESULT, "made by\ntwo lines")
    whole = path.read_bytes()
    second = replace(RESULT, condition="optimal, no mask", seed=1)
    append_result(path, second, "made by\ntwo lines")
    full = path.read_bytes()
    assert full.startswith(b"# made by\n# two lines\ncondition,")
    assert read_results(path) == [RESULT, second]
    for end in range(0, len(full), 5):
        path.write_bytes(full[:end])
        assert read_results(path) == ([RESULT] if end >= len(whole) else [])
        append_result(path, second, "made by\ntwo lines")
        assert read_results(path) == ([RESULT, second] if end >= len(whole) else [second])


def test_conditions_are_compared_seed_by_seed_and_document_by_document():
    results = [
        RESULT,
        replace(RESULT, seed=1, loss=1.7),
        replace(RESULT, condition="a", document_losses="1100 2000 3200"),
        replace(RESULT, condition="a", seed=1, document_losses="1000 2000 3300"),
        replace(RESULT, condition="a", seed=2, document_losses="9 9 9"),
        replace(RESULT, condition="b", base="of another machine"),
    ]
    padding, found = compare(results)
    assert (padding.change, padding.error_over_documents, padding.seeds) == (0, 0, 2)
    assert padding.loss == pytest.approx(1.6)
    assert found.seeds == 2
    assert found.change == pytest.approx(0.1)
    changes = np.array([0.05, 0, 0.25])
    assert found.error_over_documents == pytest.approx(changes.std(ddof=1) / 3**0.5)
    assert found.error_over_seeds == pytest.approx(0)


@pytest.mark.slow
def test_the_study_goes_on_with_the_runs_that_are_missing(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    words = ["pack", "row", "token", "mask", "loss", "step"]
    for name in ("first", "a", "b"):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for _ in range(40):
                texts = [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(2)]
                messages = [
                    {"role": role, "content": text}
                    for role, text in zip(("user", "assistant"), texts, strict=True)
                ]
                file.write(json.dumps({"messages": messages}) + "\n")
    small = replace(
        study.STUDIES["tiny"],
        conditions=[MAIN[0], MAIN[6]],
        seeds=1,
        epochs=2,
        documents=30,
        held_out=8,
        row=128,
        rows_per_step=2,
    )
    monkeypatch.setitem(study.STUDIES, "tiny", small)
    monkeypatch.setattr(study, "FIRST_DOCUMENTS", 20)
    monkeypatch.setattr(study, "FIRST_HELD_OUT", 5)
    monkeypatch.setattr(study, "VOCABULARY", 300)
    csv = tmp_path / "study.csv"
    words = ["study", "tiny", "--first", tmp_path / "first.jsonl", "--csv", csv]
    words += ["--tune", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--folder", tmp_path / "work"]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [*map(str, [*words, "--only", "padding"])])
    study.main()
    first = csv.read_text()
    assert [one.condition for one in read_results(csv)] == ["padding"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    study.main()
    torch.set_num_threads(threads)
    assert csv.read_text().startswith(first)
    padding, optimal = read_results(csv)
    assert optimal.condition == "optimal, no mask"
    assert (padding.base, padding.data) == (optimal.base, optimal.data)
    assert len(padding.document_losses.split()) == 8
    assert len(padding.loss_by_epoch.split()) == 2
    assert padding.steps == optimal.steps
