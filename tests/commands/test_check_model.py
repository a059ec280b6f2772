# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import LlamaConfig, LlamaForCausalLM

from megatron_packing.cli import main


def test_a_model_that_is_apart_ends_with_status_0_and_its_figures(tmp_path, capsys):
    path = tmp_path / "check.json"
    words = ["check-model", "qwen3_next", "--rows", "varlen", "--attention", "sdpa"]
    assert main([*words, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Qwen3NextForCausalLM, built small: 4 layers" in shown
    (line,) = (line for line in shown.splitlines() if line.split()[:2] == ["varlen", "sdpa"])
    assert line.split()[2] == "apart"
    assert "causal_conv1d_fn, chunk_gated_delta_rule: torch computed these kernels" in shown
    record = json.loads(path.read_text())
    assert record["apart"]
    assert [one["outcome"] for one in record["findings"]] == ["apart"]


def test_a_model_that_leaks_ends_with_status_1_a_sentence_and_the_record(tmp_path, capsys):
    path = tmp_path / "check.json"
    words = ["check-model", "GptOssConfig", "--rows", "positions", "--json", str(path)]
    assert main(words) == 1
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    found = {line[1]: line[2:4] for line in lines if line[:1] == ["positions"]}
    assert found["eager"] == ["see", "each"]
    assert found["flash_attention_2"][0] == "apart"
    assert found["sdpa"] == ["not", "there"]
    assert "positions with sdpa: the model has no sdpa." in " ".join(shown.out.split())
    error = shown.err.strip()
    assert "\n" not in error
    assert "first in model.layers.0.self_attn (GptOssAttention)" in error
    assert error.endswith("train with rows told as positions and flash_attention_2, where "
                          "documents are apart")  # fmt: skip
    record = json.loads(path.read_text())
    assert not record["apart"]
    assert [one["outcome"] for one in record["findings"]] == ["absent", "leaks", "apart"]


def test_a_folder_is_checked_as_it_is_with_its_weights(tmp_path, capsys):
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "model")
    words = ["check-model", str(tmp_path / "model"), "--attention", "sdpa"]
    assert main([*words, "--as-is"]) == 0
    parameters = f"{sum(one.numel() for one in model.parameters()):,} parameters"
    shown = " ".join(capsys.readouterr().out.split())
    assert f"LlamaForCausalLM, as it is: 3 layers (LlamaAttention), {parameters}" in shown
    assert main(words) == 0
    assert "built small: 3 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["qwen3_nxt"], "qwen3_nxt is no folder, and no model type"),
        (["qwen3_nxt"], "did you mean qwen3_next?"),
        (["t5"], "t5 is an encoder-decoder; give a causal language model"),
        (["vit"], "vit has a ViTConfig, of which transformers has no causal language model"),
        (["{folder}"], "transformers reads no configuration from {folder}"),
        (["dbrx"], "dbrx cannot be built small"),
        (["llama", "--attention", "sparse"], "llama cannot be run with a packed row"),
        (["llama", "--device", "tpu9"], "torch cannot use the --device tpu9"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(words, problem, tmp_path, capsys):
    words = [word.format(folder=tmp_path) for word in words]
    assert main(["check-model", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert problem.format(folder=tmp_path) in error
    assert "\n" not in error
