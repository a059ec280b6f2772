# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from megatron_packing.errors import InputError
from megatron_packing.probe.attention import Recorder
from megatron_packing.probe.checkpoint import load_checkpoint
from megatron_packing.probe.measure import probe, run_row
from megatron_packing.probe.result import TARGETS, Variant
from megatron_packing.probe.rows import ProbeDocuments
from tests.probe.conftest import VOCABULARY

VARIANTS = [
    Variant(neighbors="none"),
    *(
        Variant(neighbors=neighbors, positions=positions, end_token=end_token)
        for neighbors, positions, end_token in product(
            ("random", "similar"), ("continue", "restart"), (None, 3)
        )
    ),
]


def choose(corpus, num_documents=4, sequence_length=128):
    return ProbeDocuments(
        corpus,
        num_documents=num_documents,
        documents_per_row=4,
        sequence_length=sequence_length,
        seed=0,
    )


def run_eagerly(model, row):
    """Loss and shares by transformers' own attention, with a causal mask that is spelled out."""
    positions = len(row.tokens)
    mask = torch.full((positions, positions), -torch.inf).triu(1)
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(row.tokens)[None],
            position_ids=torch.from_numpy(row.position_ids)[None],
            attention_mask=mask[None, None],
            output_attentions=True,
        )
    queries = len(row.labels)
    shares = [
        [[head[-queries:, row.targets == target].sum(1).mean() for target in range(len(TARGETS))]
         for head in layer[0]]
        for layer in output.attentions
    ]  # fmt: skip
    log_probabilities = output.logits[0, -queries:].log_softmax(1)
    losses = -log_probabilities[torch.arange(queries), torch.from_numpy(row.labels)]
    return losses[torch.from_numpy(row.trained)].mean(), torch.tensor(shares)


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_shares_are_those_of_eager_attention(checkpoint, corpus, variant):
    documents = choose(corpus)
    eager = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    model, recorder = load_checkpoint(checkpoint, "cpu"), Recorder()
    for document in documents.measured:
        row = documents.row(document, variant)
        loss = run_row(model, row, recorder)
        expected_loss, expected_shares = run_eagerly(eager, row)
        assert loss == pytest.approx(float(expected_loss), rel=1e-5)
        torch.testing.assert_close(torch.stack(recorder.shares), expected_shares)


def test_results_are_means_over_documents_and_a_document_alone_leaks_nothing(checkpoint, corpus):
    documents = choose(corpus)
    result = probe(checkpoint, documents, [3], "cpu")
    assert [one.variant for one in (result.alone, *result.variants)] == VARIANTS
    model, recorder = load_checkpoint(checkpoint, "cpu"), Recorder()
    for one in (result.alone, *result.variants):
        shares, losses = [], []
        for document in documents.measured:
            losses.append(run_row(model, documents.row(document, one.variant), recorder))
            shares.append(torch.stack(recorder.shares).numpy())
        np.testing.assert_allclose(one.losses, losses, rtol=1e-6)
        np.testing.assert_allclose(one.shares, np.mean(shares, axis=0), atol=1e-6)
        np.testing.assert_allclose(one.shares.sum(axis=2), 1, atol=1e-5)
        assert one.uniform.sum() == pytest.approx(1)
    assert (result.alone.earlier_by_layer == 0).all()
    assert all((one.earlier_by_layer > 0).all() for one in result.variants)
    change, error = result.variants[0].loss_change(result.alone)
    differences = result.variants[0].losses - result.alone.losses
    assert change == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / 2)


def test_what_cannot_be_measured_is_refused(checkpoint, corpus, tmp_path):
    documents = choose(corpus)
    with pytest.raises(InputError, match=f"has the token 99, but .* has {VOCABULARY} tokens"):
        probe(checkpoint, documents, [99], "cpu")
    with pytest.raises(InputError, match=r"is no checkpoint; give a folder"):
        probe(tmp_path / "nothing", documents, [3], "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(InputError, match=r"transformers cannot load"):
        probe(tmp_path, documents, [3], "cpu")


def test_a_window_that_is_shorter_than_a_row_is_refused(corpus, tmp_path):
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"only to the last 16 positions, and a row has \d+"):
        probe(tmp_path, choose(corpus), [3], "cpu")


def test_similar_neighbors_share_more_tokens_than_random_ones(corpus):
    documents = choose(corpus)

    def likeness(measured, other):
        """Cosine of the counts of tokens."""
        a, b = (np.bincount(corpus.tokens(one), minlength=VOCABULARY) for one in (measured, other))
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def mean_likeness(kind):
        return np.mean(
            [
                likeness(one, neighbor)
                for one in documents.measured
                for neighbor in documents.neighbors(one, kind)
            ]
        )

    assert mean_likeness("similar") > 1.2 * mean_likeness("random")
    for one in documents.measured:
        for kind in ("similar", "random"):
            neighbors = documents.neighbors(one, kind)
            assert len({one, *neighbors}) == 4
            assert neighbors == documents.neighbors(one, kind)


def test_rows_hold_what_their_variant_says(corpus):
    documents = choose(corpus)
    (measured, *_) = documents.measured
    own = corpus.tokens(measured)
    for variant in VARIANTS[1:]:
        row = documents.row(measured, variant)
        inputs = [
            corpus.tokens(one)[:-1] for one in documents.neighbors(measured, variant.neighbors)
        ]
        ends = [] if variant.end_token is None else [variant.end_token]
        parts = [*(np.append(one, ends) for one in inputs), own[:-1]]
        assert row.tokens.tolist() == np.concatenate(parts).tolist()
        assert (row.labels == own[1:]).all()
        if variant.positions == "restart":
            assert row.position_ids.tolist() == [at for part in parts for at in range(len(part))]
        else:
            assert row.position_ids.tolist() == list(range(len(row.tokens)))
        names = np.array(TARGETS)[row.targets]
        assert names[0] == "first token of the row"
        assert names[-len(own) + 1] == "own first token"
        assert np.count_nonzero(names == "end tokens") == 3 * len(ends)
        assert set(row.tokens[names == "end tokens"]) == set(ends)
        assert np.count_nonzero(names == "own tokens") == len(own) - 2
    alone = documents.row(measured, replace(variant, neighbors="none"))
    assert alone.tokens.tolist() == own[:-1].tolist()


def test_too_few_documents_are_refused(corpus):
    with pytest.raises(InputError, match=r"has 0 documents .* 4 are to be measured"):
        choose(corpus, sequence_length=16)
