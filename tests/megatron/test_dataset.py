# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shlex
import shutil
from argparse import ArgumentParser
from dataclasses import MISSING, Field, fields, replace
from itertools import pairwise
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

pytest.importorskip("megatron.core")

import megatron.core
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.utils import Split
from megatron.core.tokenizers import MegatronTokenizer

from megatron_packing import PackIndex
from megatron_packing.cli import main
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.megatron.arguments import add_packing_arguments, dataset_config_from_args
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.dataset_builder import PackedDatasetBuilder
from megatron_packing.megatron.indexes import open_indexes, prepare_indexes
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.thd.alignment import segment_alignment
from tests.conftest import chat_like_lengths, write_corpus
from tests.index.manifest_file import edit_manifest, set_field

ROW = 64


def null_tokenizer():
    """Megatron's tokenizer of numbers, which changed its name."""
    library = "null" if megatron.core.__version__ < "0.17" else "null-text"
    return MegatronTokenizer.from_pretrained(metadata_path={"library": library}, vocab_size=256)


def config_settings() -> dict:
    return {
        "random_seed": 7,
        "sequence_length": ROW,
        "split": "100,0,0",
        "tokenizer": null_tokenizer(),
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }


def make_config(**settings) -> PackedDatasetConfig:
    """A configuration, in which ``packing_NAME`` may be a field of the plan."""
    names = {field.name for field in fields(PlanSettings)} - {"sequence_length", "seed"}
    plan = {
        name: settings.pop(f"packing_{name}") for name in names if f"packing_{name}" in settings
    }
    if plan:
        # As flags do: the least that context parallelism needs, where nothing else is given.
        least = segment_alignment(settings.get("context_parallel_size") or 1)
        settings["packing"] = PlanSettings(
            sequence_length=settings["sequence_length"],
            seed=settings["random_seed"],
            **{"alignment": least} | plan,
        )
    return PackedDatasetConfig(**settings)


def build(prefixes, tmp_path, sizes=(None, None, None), **changes):
    settings = {
        **config_settings(),
        "blend": ([str(prefix) for prefix in prefixes], None),
        "path_to_cache": str(tmp_path / "cache"),
        **changes,
    }
    config = make_config(**settings)
    return BlendedMegatronDatasetBuilder(PackedDataset, list(sizes), lambda: True, config).build()


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=ROW))


def segments_in(sample) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]]:
    """Tokens, labels and loss mask of each segment of a sample, the tail left out."""
    cu_seqlens = sample["cu_seqlens"].unique_consecutive().tolist()
    parts = [sample[name].tolist() for name in ("tokens", "labels", "loss_mask")]
    return [
        tuple(tuple(part[a:b]) for part in parts)
        for a, b in pairwise(cu_seqlens)
        if any(parts[1][a:b])
    ]


def documents_of(corpus, indices):
    """What segments_in must give for these documents."""
    return [
        (
            tuple(corpus.tokens(i)[:-1].tolist()),
            tuple(corpus.tokens(i)[1:].tolist()),
            tuple(corpus.loss_mask(i)[1:].astype(float).tolist()),
        )
        for i in indices
        if corpus.tokens(i)[1:].any()
    ]


def test_an_epoch_holds_each_document_of_its_split_once(corpus, tmp_path):
    train, valid, test = build([corpus.prefix], tmp_path, split="80,20,0")
    assert test is None
    for dataset, indices in ((train, range(160)), (valid, range(160, 200))):
        found = [segment for i in range(len(dataset)) for segment in segments_in(dataset[i])]
        assert sorted(found) == sorted(documents_of(corpus, indices))


def test_samples_are_what_a_dataloader_collates(corpus, tmp_path):
    (train, _, _) = build([corpus.prefix], tmp_path)
    loader = torch.utils.data.DataLoader(train, batch_size=1, num_workers=2)
    for i, batch in enumerate(loader):
        sample = train[i]
        assert sample.keys() == batch.keys()
        for name, value in sample.items():
            assert torch.equal(batch[name][0], value)
    widths = {train[i]["cu_seqlens"].shape for i in range(len(train))}
    assert len(widths) == 1
    assert batch["tokens"].shape == (1, ROW)


def test_more_samples_than_packs_are_further_epochs_in_another_order(corpus, tmp_path):
    (one, _, _) = build([corpus.prefix], tmp_path)
    (three, _, _) = build([corpus.prefix], tmp_path, sizes=(3 * len(one), None, None))
    assert len(three) == 3 * len(one)
    epochs = [
        [tuple(three[e * len(one) + i]["tokens"].tolist()) for i in range(len(one))]
        for e in range(3)
    ]
    tokens = [sorted(token for row in epoch for token in row) for epoch in epochs]
    assert tokens[0] == tokens[1] == tokens[2]
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) != set(epochs[1]) != set(epochs[2])  # other neighbors, not only order
    assert epochs[0] == [tuple(one[i]["tokens"].tolist()) for i in range(len(one))]


def test_blends_draw_each_sample_from_one_corpus(tmp_path):
    low = write_corpus(tmp_path / "low", chat_like_lengths(100, longest=ROW), vocabulary=100)
    high = write_corpus(tmp_path / "high", chat_like_lengths(300, longest=ROW, seed=1))
    (blend, _, _) = build(
        [],
        tmp_path,
        sizes=(40, 0, 0),
        path_to_cache=None,  # 0.16.1 asks for a process group where it writes a blend's cache
        blend=([str(low.prefix), str(high.prefix)], [0.25, 0.75]),
    )
    sources = [int(blend[i]["dataset_id"]) for i in range(40)]
    assert sources.count(0) == 10
    for i, source in enumerate(sources):
        if source == 0:
            assert blend[i]["tokens"].max() < 100


def test_the_index_is_made_once_and_found_again(corpus, tmp_path):
    build([corpus.prefix], tmp_path)
    (made,) = (tmp_path / "cache" / "pack_indexes").iterdir()
    before = (made / "manifest.json").stat().st_mtime_ns
    build([corpus.prefix], tmp_path)
    (found,) = (tmp_path / "cache" / "pack_indexes").iterdir()
    assert (found / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": 128},
        {"random_seed": 8},
        {"packing_strategy": "greedy"},
        {"packing_overlong": "split"},
        {"packing_packs_multiple_of": 8},
        {"split": "90,10,0"},
    ],
)
def test_another_plan_gets_an_index_of_its_own(corpus, tmp_path, change):
    build([corpus.prefix], tmp_path)
    build([corpus.prefix], tmp_path, **change)
    assert len(list((tmp_path / "cache" / "pack_indexes").iterdir())) > 1


def test_a_changed_corpus_gets_an_index_of_its_own(corpus, tmp_path):
    build([corpus.prefix], tmp_path)
    write_corpus(corpus.prefix, corpus.num_tokens, seed=5)
    (train, _, _) = build([corpus.prefix], tmp_path)
    assert len(list((tmp_path / "cache" / "pack_indexes").iterdir())) == 2
    train.index.check_corpus(corpus.prefix, train.corpus.fingerprint)


def offline_index(corpus, path, **changes) -> PackIndex:
    documents = changes.pop("documents", None)
    plan = {
        "strategy": "greedy",
        "sequence_length": ROW,
        "overlong": "error",
        "packs_multiple_of": 1,
        "seed": 0,
        **changes,
    }
    return build_pack_index(corpus, PlanSettings(**plan), path, documents=documents)


def test_an_index_made_beforehand_is_used(corpus, tmp_path):
    train_index = offline_index(corpus, tmp_path / "train", documents=range(160))
    valid_index = offline_index(corpus, tmp_path / "valid", documents=range(160, 200))
    train, valid, _ = build(
        [corpus.prefix],
        tmp_path,
        split="80,20,0",
        packing_indexes=(str(valid_index.path), str(train_index.path)),
    )
    assert train.index.path == train_index.path
    assert valid.index.path == valid_index.path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda corpus, path: offline_index(corpus, path), "none of the pack indexes"),
        (
            lambda corpus, path: offline_index(
                write_corpus(path.parent / "other", corpus.num_tokens, seed=3), path
            ),
            "none of the pack indexes",
        ),
        (
            lambda corpus, path: offline_index(
                corpus, path, sequence_length=128, documents=range(100)
            ),
            "has rows of 128 positions, but --seq-length is 64",
        ),
    ],
    ids=["documents of two splits", "another corpus", "another sequence length"],
)
def test_an_index_that_does_not_fit_is_refused(corpus, tmp_path, make, message):
    index = make(corpus, tmp_path / "offline")
    with pytest.raises(InputError, match=message):
        build([corpus.prefix], tmp_path, split="50,50,0", packing_indexes=(str(index.path),))


def test_an_overlong_document_stops_the_build(corpus, tmp_path):
    with pytest.raises(InputError, match="longer than the sequence length 16") as caught:
        build([corpus.prefix], tmp_path, sequence_length=16)
    advice = "a longer --seq-length, or choose with --packing-overlong drop, truncate or split"
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packing_min_packs": -1}, "--packing-min-packs is -1; it must be between 0 and 2^36"),
        ({"packing_packs_multiple_of": 0}, "--packing-packs-multiple-of is 0; it must be"),
        ({"packing_max_documents_per_pack": 0}, "--packing-max-documents-per-pack is 0; it must"),
        (
            {"packing_alignment": 7},
            f"--packing-alignment is 7; it must be a divisor of --seq-length, which is {ROW}",
        ),
        ({"random_seed": -1}, "--seed is -1; it must be between 0 and 2**64 - 1"),
        (
            {"packing_strategy": "random", "packing_overlong": "drop"},
            "--packing-strategy random cuts documents at the ends of rows; use --packing-overlong",
        ),
    ],
)
def test_a_setting_that_the_planner_refuses_is_named_by_its_flag(corpus, tmp_path, change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build([corpus.prefix], tmp_path, **change)


def test_a_split_without_documents_is_named(corpus, tmp_path):
    with pytest.raises(InputError, match=r"the valid split of .* holds no documents"):
        build([corpus.prefix], tmp_path, split="999,1,0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"create_attention_mask": True}, "create_attention_mask"),
        ({"packing_strategy": "best"}, "strategy is 'best'"),
        ({"packing": PlanSettings(sequence_length=7)}, "packing.sequence_length is 7, but"),
    ],
)
def test_a_wrong_setting_is_named(corpus, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        build([corpus.prefix], tmp_path, **change)


def test_both_builders_give_the_same_rows_and_keep_no_array_of_documents(corpus, tmp_path):
    built = build([corpus.prefix], tmp_path, split="80,20,0")
    config = make_config(
        **config_settings() | {"split": "80,20,0"},
        blend=([str(corpus.prefix)], None),
        path_to_cache=str(tmp_path / "cache"),
    )
    sizes = [None] * len(Split)
    again = PackedDatasetBuilder(PackedDataset, sizes, lambda: True, config).build()
    assert built[2] is None
    assert again[2] is None
    for one, other, documents in zip(built, again, (range(160), range(160, 200)), strict=False):
        assert one.indices == other.indices == documents
        assert one.index_split is other.index_split
        assert len(one) == len(other)
        for row in range(len(one)):
            assert torch.equal(one[row]["tokens"], other[row]["tokens"])


def test_more_documents_than_megatrons_builder_can_number_are_refused(corpus):
    config = make_config(**config_settings(), blend=([str(corpus.prefix)], None))
    wrapped = np.array([0, 1, -3, -2], np.int32)  # as its 32 bits would count
    with pytest.raises(InputError, match=r"more than Megatron's own builder can number"):
        PackedDataset(corpus, str(corpus.prefix), wrapped, None, Split.train, config)


def test_another_plan_in_the_same_config_gets_indexes_of_its_own(corpus, tmp_path):
    settings = config_settings() | {"path_to_cache": str(tmp_path / "cache")}
    config = make_config(**settings, blend=([str(corpus.prefix)], None))
    prepare_indexes(config)
    (first,) = config.packing_opened.indexes.values()
    config.packing = replace(config.packing, strategy="greedy")
    prepare_indexes(config)
    (second,) = config.packing_opened.indexes.values()
    assert (first.plan.strategy, second.plan.strategy) == ("optimal", "greedy")
    assert replace(config).packing_opened is None


def test_a_fraction_of_a_corpus_is_sorted_once_for_all_ranks(corpus, tmp_path, monkeypatch):
    first, _, _ = build([f"{corpus.prefix}:1.5"], tmp_path)
    (orders,) = (tmp_path / "cache" / "orders").iterdir()
    assert orders.stat().st_size == 4 * (200 + 100) + 32
    monkeypatch.setattr("megatron_packing.corpus.changing_part._mix", None)  # to sort
    again, _, _ = build([f"{corpus.prefix}:1.5"], tmp_path)
    for row in range(2 * len(first.index)):
        assert torch.equal(first[row]["tokens"], again[row]["tokens"])


def test_the_work_of_packs_is_computed_once_for_all_ranks(corpus, tmp_path, monkeypatch):
    order = EvenSettings(ranks=2, batch=8, per_token=3, per_squared_length=1)
    first, _, _ = build([corpus.prefix], tmp_path, packing_even_order=order)
    (work,) = (tmp_path / "cache" / "orders").iterdir()
    assert work.stat().st_size == 8 * len(first.index) + 32
    monkeypatch.setattr("megatron_packing.stream.even_order.work_of_packs", None)
    again, _, _ = build([corpus.prefix], tmp_path, packing_even_order=order)
    for row in range(2 * len(first.index)):
        assert torch.equal(first[row]["tokens"], again[row]["tokens"])
    content = bytearray(work.read_bytes())
    content[0] ^= 1
    work.write_bytes(content)
    with pytest.raises(InputError, match=r"orders/\w+ is damaged \(its hash differs\); remove it"):
        build([corpus.prefix], tmp_path, packing_even_order=order)


def test_the_config_of_another_model_chunk_opens_nothing_anew(corpus, tmp_path):
    settings = config_settings() | {"path_to_cache": str(tmp_path / "cache")}
    first, second = (make_config(**settings, blend=([str(corpus.prefix)], None)) for _ in range(2))
    prepare_indexes(first)
    shutil.rmtree(tmp_path / "cache")
    corpus.prefix.with_name("corpus.idx").unlink()
    second.packing_opened = first.packing_opened
    open_indexes(second)
    assert second.packing_shape == first.packing_shape
    assert second.packing_opened is first.packing_opened


def test_an_index_of_another_tokenizer_than_its_corpus_is_refused(corpus, tmp_path):
    index = offline_index(corpus, tmp_path / "packs")
    record = {"tokenizer": "x", "tokenizer_sha256": "ab" * 32}
    (tmp_path / "corpus_corpus.json").write_text(json.dumps(record))
    build([corpus.prefix], tmp_path, packing_indexes=(str(index.path),))
    edit_manifest(index.path, set_field("corpus.tokenizer_sha256", "0" * 64), digest="none")
    with pytest.raises(InputError, match=r"its tokenizer is 000000000000, but that of .* is abab"):
        build([corpus.prefix], tmp_path, packing_indexes=(str(index.path),))


def changed(field: Field) -> object:
    """A value of a field of the settings that is not its default."""
    kind = get_type_hints(PlanSettings)[field.name]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != field.default)
    return 96 if field.default is MISSING else (field.default or 2) + 1


def test_every_setting_of_a_plan_has_a_flag_of_its_own_and_reaches_the_plan():
    settings = {field.name: changed(field) for field in fields(PlanSettings)}
    flags = [
        word
        for name, value in settings.items()
        if name not in ("sequence_length", "seed")  # Megatron has flags of its own for these
        for word in (f"--packing-{name.replace('_', '-')}", str(value))
    ]
    args = add_packing_arguments(ArgumentParser()).parse_args(flags)
    vars(args).update(
        seq_length=settings["sequence_length"],
        seed=settings["seed"],
        context_parallel_size=1,
        data_cache_path=None,
        create_attention_mask_in_dataloader=False,
        eval_global_batch_size=None,
        global_batch_size=6,
        num_experts=None,
        split="100,0,0",
    )
    config = dataset_config_from_args(args, null_tokenizer(), lambda _: (None, None))
    assert config.plan_settings(training=True) == PlanSettings(**settings)
    evaluated = settings | {"min_packs": 0, "packs_multiple_of": 6}
    assert config.plan_settings(training=False) == PlanSettings(**evaluated)


def test_the_command_in_a_refusal_makes_the_index_that_the_run_takes(corpus, tmp_path):
    other = tmp_path / "other"
    build_pack_index(corpus, PlanSettings(strategy="optimal", sequence_length=ROW), other)
    changes = {"context_parallel_size": 2, "packing_max_documents_per_pack": 3}
    with pytest.raises(InputError) as refused:
        build([corpus.prefix], tmp_path, packing_indexes=(str(other),), **changes)
    command = str(refused.value).partition("make one with: megatron-packing ")[2]
    assert "--alignment 4" in command
    words = shlex.split(command.replace("DIR", str(tmp_path / "made")))
    assert main(words) == 0
    made = (str(tmp_path / "made"),)
    (train, _, _) = build([corpus.prefix], tmp_path, packing_indexes=made, **changes)
    assert train.index.plan.alignment == 4
