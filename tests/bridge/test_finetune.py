# SPDX-License-Identifier: Apache-2.0
"""Bridge's own ``finetune()`` on packs, against Hugging Face's model and Megatron's trainer."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("megatron.core")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_packing.index.build import build_pack_index
from megatron_packing.interchange.export import export_packs
from megatron_packing.megatron.endless import count_samples
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.ranks import open_index_and_corpus
from megatron_packing.thd.rows import PackedRows
from tests.bridge.conftest import BRIDGE, SOURCES, needs_bridge
from tests.conftest import chat_like_lengths, write_corpus
from tests.docs.pages import blocks
from tests.ranks import run_ranks
from tests.trainer import needs_trainer, train

pytestmark = [needs_bridge, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("run_finetune.py")
ROW, STEPS, BATCH, VOCABULARY = 64, 4, 4, 256
RELATIVE = 2e-6
WEIGHTS = (0.3, 0.7)
CHECKS = BRIDGE >= (0, 4)
CHECK = {"check": True}
LAYOUTS = {
    "data": {},
    "pipeline": {"pipeline_model_parallel_size": 2},
    "context": {"context_parallel_size": 2},
    "tensor": {"tensor_model_parallel_size": 2},
    "sequence": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pack indexes of three corpora, and a small Llama in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("finetune")
    for number, (name, count) in enumerate([("chat", 60), ("code", 40), ("valid", 30)]):
        lengths = chat_like_lengths(count, longest=ROW, seed=number)
        corpus = write_corpus(folder / f"{name}_corpus", lengths, seed=number)
        settings = PlanSettings(strategy="optimal", sequence_length=ROW, alignment=4)
        build_pack_index(corpus, settings, folder / name)
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
        initializer_range=0.1,
        dtype="float32",
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "hf")
    return folder


def run(
    folder: Path, cases: dict[str, dict], ranks: int = 1, home: Path | None = None
) -> dict[str, dict]:
    """All cases in one process a rank. Checkpoints are in ``home``.

    Returns what the last rank found, and what the first printed.
    """
    data = {"train": f"{folder / 'chat'}", "validation": f"{folder / 'valid'}"}
    path = (home or folder) / f"cases{ranks}.json"
    path.write_text(json.dumps([{**data, "iterations": STEPS, **case} for case in cases.values()]))
    outputs = run_ranks(SCRIPT, path, path.with_suffix(f".{len(cases)}.store"), ranks=ranks)
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    for first, last in zip(found[0], found[-1], strict=True):
        last["printed"] = first["printed"]
    return dict(zip(cases, found[-1], strict=True))


def cases_of_one_rank(folder: Path, home: Path) -> dict[str, dict]:
    resumed = {"save": f"{home / 'run'}", "load": f"{home / 'run'}"}
    blend_run = {"save": f"{home / 'blend'}", "load": f"{home / 'blend'}"}
    blend = [str(WEIGHTS[0]), f"{folder / 'chat'}", str(WEIGHTS[1]), f"{folder / 'code'}"]
    return {
        "whole": {},
        "begun": {"iterations": STEPS // 2, **resumed},
        "resumed": resumed,
        "lora": {"lora": True},
        "blend": {"train": blend, "iterations": 12},
        "blend begun": {"train": blend, "iterations": 5, **blend_run},
        "blend resumed": {"train": blend, "iterations": 12, **blend_run},
    }


@pytest.fixture(scope="module")
def results(folder) -> dict[str, dict]:
    return run(folder, cases_of_one_rank(folder, folder))


def reference(folder: Path, result: dict) -> dict[str, list[float]]:
    """The same steps, one document at a time; nothing of Bridge or Megatron computes in it."""
    model = LlamaForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, attn_implementation="eager"
    )
    settings = result["optimizer"]
    matrices = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=settings["lr"],
        betas=(settings["adam_beta1"], settings["adam_beta2"]),
        eps=settings["adam_eps"],
        weight_decay=settings["weight_decay"],
    )

    @functools.cache
    def rows(path: str, is_training: bool) -> PackedRows:
        index, corpus = open_index_and_corpus(path)
        return PackedRows(
            index=index, corpus=corpus, seed=result["seed"], new_order_each_epoch=is_training
        )

    def losses(path: str, sample: int, is_training: bool) -> tuple[torch.Tensor, int]:
        row = rows(path, is_training).row(sample)
        bounds, total = row["cu_seqlens"].tolist(), torch.zeros(())
        for start, end in itertools.pairwise(bounds):
            mask = torch.from_numpy(row["loss_mask"][start:end])
            if mask.any():
                logits = model(torch.from_numpy(row["tokens"][None, start:end])).logits[0]
                labels = torch.from_numpy(row["labels"][start:end])
                each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
                total = total + (each * mask).sum()
        return total, int(row["loss_mask"].sum())

    found: dict[str, list[float]] = {"losses": [], "norms": [], "evaluations": []}

    def evaluate() -> None:
        with torch.no_grad():
            each = [losses(*row, False) for row in result["evaluated rows"][len(found_rows)]]
        found_rows.append(None)
        total, count = map(sum, zip(*each, strict=True))
        found["evaluations"].append(float(total) / count)

    found_rows: list[None] = []
    for step in range(len(result["losses"])):
        optimizer.zero_grad()
        each = [losses(*row, True) for row in result["rows"][step * BATCH : (step + 1) * BATCH]]
        total, count = map(sum, zip(*each, strict=True))
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_grad"])
        found["losses"].append(float(total.detach()) / count)
        found["norms"].append(float(norm))
        optimizer.step()
        if step % 2:
            evaluate()
    evaluate()
    return found


def assert_checked_without_a_trace(found: dict[str, dict], plain: dict[str, dict]) -> None:
    """The same runs with and without the check, bit for bit."""
    for name, one in found.items():
        assert "> packing check: " in one["printed"], name
        assert "documents of a row are apart" in one["printed"], name
        for figures in ("losses", "norms", "evaluations"):
            assert one[figures] == plain[name][figures], (name, figures)


def assert_same(found: dict, expected: dict, names=("losses", "norms", "evaluations")) -> None:
    for name in names:
        assert len(found[name]) == len(expected[name]) > 0
        assert np.allclose(found[name], expected[name], rtol=RELATIVE), name


def test_finetune_equals_the_model_of_hugging_face_alone_on_each_document(folder, results):
    assert results["whole"]["rows"] == [[f"{folder / 'chat'}", row] for row in range(16)]
    assert_same(results["whole"], reference(folder, results["whole"]))


def test_a_saved_run_that_is_resumed_has_the_losses_of_an_unbroken_one(results):
    whole, half = results["whole"], STEPS // 2
    for name in ("losses", "norms"):
        assert results["begun"][name] == whole[name][:half]
        assert results["resumed"][name] == whole[name][half:]
    assert results["begun"]["rows"] + results["resumed"]["rows"] == whole["rows"]
    assert results["resumed"]["evaluations"] == whole["evaluations"][1:]


def test_lora_starts_at_the_loss_of_the_model_and_learns(results):
    lora, whole = results["lora"], results["whole"]
    assert lora["rows"] == whole["rows"]
    assert lora["losses"][0] == whole["losses"][0]
    assert lora["norms"][0] < whole["norms"][0]  # fewer parameters
    assert lora["losses"][1:] != whole["losses"][1:]
    assert lora["evaluations"][-1] < lora["evaluations"][0]


def test_a_blend_reads_each_index_at_its_weight(folder, results):
    """In Megatron's order of a blend, each index in its own order of rows."""
    result = results["blend"]
    counts = Counter(path for path, _ in result["rows"])
    expected = count_samples(WEIGHTS, 12 * BATCH)
    paths = [f"{folder / 'chat'}", f"{folder / 'code'}"]
    assert [counts[path] for path in paths] == expected
    assert expected == pytest.approx([0.3 * 48, 0.7 * 48], abs=1)
    for path in paths:
        assert [row for one, row in result["rows"] if one == path] == list(range(counts[path]))
    assert_same(result, reference(folder, result), ("losses", "norms"))
    for name in ("rows", "losses", "norms"):
        assert results["blend begun"][name] + results["blend resumed"][name] == result[name]


@pytest.mark.skipif(BRIDGE < (0, 6), reason="the page has the settings of Bridge 0.6")
def test_bridge_trains_on_exported_packs_with_the_settings_of_the_page(folder):
    """One step of all rows, as Bridge has an order of its own."""
    end_token, packs = VOCABULARY - 1, {}
    for name in ("train", "valid"):
        prefix = folder / f"exported_{name}_corpus"
        corpus = write_corpus(prefix, chat_like_lengths(50, longest=ROW), vocabulary=end_token)
        settings = PlanSettings(strategy="optimal", sequence_length=ROW)
        packs[name] = build_pack_index(corpus, settings, folder / f"exported_{name}")
        folders = {"train": folder / "data" / "bridge", "valid": folder / "data" / "bridge_valid"}
        folders[name].parent.mkdir(exist_ok=True)
        export_packs(
            packs[name], corpus, folders[name], file_format="bridge-parquet", end_token=end_token
        )
    (program,) = [
        block.text
        for block in blocks("bridge.md")
        if block.kind == "python" and "offline_packing_specs" in block.text
    ]
    for old, new in (("4096", f"{ROW}"), ('"data/', f'"{folder}/data/')):
        assert old in program
        program = program.replace(old, new)
    batch = {"iterations": 1, "batch": len(packs["train"])}
    data = {name: f"{folder / f'exported_{name}'}" for name in ("train", "valid")}
    found = run(
        folder,
        {
            "packs": {"train": data["train"], "validation": data["valid"], **batch},
            "exported": {"program": program, **batch},
        },
    )
    assert_same(found["exported"], found["packs"], ("losses", "norms"))
    assert found["exported"]["rows"] == []  # Bridge read them itself


@pytest.mark.slow
def test_every_layout_has_the_losses_of_one_rank(folder, results):
    layouts = {name: {"model": changes} for name, changes in LAYOUTS.items()}
    layouts["data with lora"] = {"lora": True}
    checked = {f"{name}, checked": {**one, **CHECK} for name, one in layouts.items()}
    found = run(folder, {**layouts, **(checked if CHECKS else {})}, ranks=2)
    for name in LAYOUTS:
        assert_same(found[name], results["whole"])
    assert_same(found["data with lora"], results["lora"])
    if CHECKS:
        assert_checked_without_a_trace({name: found[f"{name}, checked"] for name in layouts}, found)


@pytest.mark.skipif(not CHECKS, reason="this Bridge has a megatron-core before 0.17")
def test_the_packing_check_leaves_no_trace(folder, results):
    """Also where a run goes on from a checkpoint, at its next row."""
    home = folder / "checked"
    home.mkdir()
    (home / "hf").symlink_to(folder / "hf")
    resumed = {"save": f"{home / 'run'}", "load": f"{home / 'run'}"}
    cases = {
        "whole": CHECK,
        "lora": {"lora": True, **CHECK},
        "begun": {"iterations": STEPS // 2, **resumed, **CHECK},
        "resumed": {**resumed, **CHECK},
    }
    assert_checked_without_a_trace(run(folder, cases, home=home), results)


@needs_trainer
@pytest.mark.slow
def test_finetune_equals_megatrons_own_trainer_from_the_same_checkpoint(folder, results):
    settings = results["whole"]["optimizer"]
    found = train(
        f"""
        --num-layers 2 --ffn-hidden-size 128 --group-query-attention --num-query-groups 2
        --seq-length {ROW} --max-position-embeddings 2048 --norm-epsilon 1e-6
        --vocab-size {VOCABULARY - 1} --load {folder / "megatron"} --finetune --no-load-optim
        --no-load-rng --train-iters {STEPS} --lr {settings["lr"]} --seed {results["whole"]["seed"]}
        --adam-beta1 {settings["adam_beta1"]} --adam-beta2 {settings["adam_beta2"]}
        --adam-eps {settings["adam_eps"]} --weight-decay {settings["weight_decay"]}
        --clip-grad {settings["clip_grad"]} --data-path {folder / "chat_corpus"}
        --packing-indexes {folder / "chat"} --packing-alignment 4
        """
    )
    assert_same(
        results["whole"],
        {
            "losses": [step.loss for step in found.steps],
            "norms": [step.grad_norm for step in found.steps],
        },
        ("losses", "norms"),
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not all(os.environ.get(name) for name in SOURCES),
    reason="MEGATRON_BRIDGE_SOURCE and MEGATRON_SOURCE name no checkouts of Megatron-Bridge and of "
    "the Megatron-LM that it wants",
)
def test_a_source_tree_of_bridge_has_the_losses_of_the_installed_release(folder, results):
    home = folder / "installed"
    home.mkdir()
    (home / "hf").symlink_to(folder / "hf")
    with mock.patch.dict(os.environ):
        for name in SOURCES:
            del os.environ[name]
        installed = run(folder, cases_of_one_rank(folder, home), home=home)
    for name, result in results.items():
        assert_same(result, installed[name])
        assert result["rows"] == installed[name]["rows"]
