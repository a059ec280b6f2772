# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/check-model.md: which families of models keep documents apart.

    .venv-3.12/bin/python tools/make_model_table.py [MODEL_TYPE ...]

Each family is built small, with random weights, and checked as ``megatron-packing check-model``
does. With model types it prints their rows, and writes nothing. It takes minutes on a CPU.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import transformers

from megatron_packing.errors import InputError
from megatron_packing.isolation.check import check_model
from megatron_packing.isolation.result import ATTENTIONS, ROW_FORMS, Finding, ModelCheck

PAGE = ROOT / "docs" / "check-model.md"
_MLA = {"num_experts_per_tok": 2, "topk_method": "greedy"}
_HYBRID = ["linear_attention", "full_attention"] * 2
FAMILIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Llama", "llama", {}),
    ("Qwen 2", "qwen2", {}),
    ("Qwen 3", "qwen3", {}),
    ("Mistral, sliding window", "mistral", {}),
    ("Gemma 2, sliding window, soft cap", "gemma2", {}),
    ("Gemma 3, sliding window", "gemma3_text", {}),
    ("Gemma 4, sliding window", "gemma4_text", {}),
    ("OLMo 3, sliding window", "olmo3", {}),
    ("Command R7B, sliding window", "cohere2", {}),
    ("Phi 3", "phi3", {}),
    ("Granite", "granite", {}),
    ("GPT-2, learned positions", "gpt2", {}),
    ("GPT-NeoX", "gpt_neox", {}),
    ("OPT, learned positions", "opt", {}),
    ("BLOOM, ALiBi", "bloom", {}),
    ("Mixtral, experts", "mixtral", {}),
    ("Qwen 2 MoE", "qwen2_moe", {}),
    ("Qwen 3 MoE", "qwen3_moe", {}),
    ("GLM 4.5, experts", "glm4_moe", {}),
    ("MiniMax M2, experts", "minimax_m2", {}),
    ("Llama 4, experts, chunked attention", "llama4_text", {}),
    ("GPT-OSS, experts, sinks, sliding window", "gpt_oss", {}),
    ("DeepSeek V2, latent attention", "deepseek_v2", _MLA),
    ("DeepSeek V3, latent attention", "deepseek_v3", {}),
    ("DeepSeek V3.2, indexed attention", "deepseek_v32", {}),
    ("DeepSeek V4, compressed attention", "deepseek_v4", {}),
    ("GLM 5, indexed attention", "glm_moe_dsa", {}),
    ("Mamba", "mamba", {}),
    ("Falcon Mamba", "falcon_mamba", {}),
    ("Mamba 2", "mamba2", {}),
    ("Jamba, Mamba and attention", "jamba", {}),
    ("Zamba, Mamba and attention", "zamba", {}),
    ("Zamba 2, Mamba 2 and attention", "zamba2", {}),
    ("Bamba, Mamba 2 and attention", "bamba", {"attn_layer_indices": [1, 3]}),
    ("Falcon H1, Mamba 2 beside attention", "falcon_h1", {}),
    ("Nemotron H, Mamba 2 and attention", "nemotron_h", {}),
    (
        "Granite 4, Mamba 2 and attention",
        "granitemoehybrid",
        {"num_hidden_layers": 4, "layer_types": _HYBRID},
    ),
    ("Qwen 3 Next, gated delta net", "qwen3_next", {}),
    ("Qwen 3.5, gated delta net", "qwen3_5_text", {}),
    ("OLMo Hybrid, gated delta net", "olmo_hybrid", {}),
    ("Kimi Linear, delta attention", "kimi_linear", {}),
    ("LFM 2, short convolutions", "lfm2", {"full_attn_idxs": [1, 3]}),
    ("RecurrentGemma", "recurrent_gemma", {}),
    ("MiniMax 01, lightning attention", "minimax", {}),
    ("RWKV", "rwkv", {}),
    ("Falcon", "falcon", {}),
    ("LongCat Flash", "longcat_flash", {}),
    ("xLSTM", "xlstm", {}),
    ("DBRX", "dbrx", {}),
)
"""What a row is called, the model type, and what differs from the default configuration."""

_WORDS = {
    "apart": "apart",
    "leaks": "**leaks**",
    "place": "**place**",
    "refused": "refused",
    "absent": "-",
}
_FORMS = {"positions": "`position_ids`", "varlen": "with varlen"}


def main(names: list[str]) -> None:
    """Replace the table in the page, or print rows."""
    families = [one for one in FAMILIES if not names or one[1] in names]
    head = [f"{_FORMS[form]}, {name}" for form in ROW_FORMS for name in ATTENTIONS]
    lines = [f"| family | {' | '.join(head)} | why |", "| --- " * (len(head) + 2) + "|"]
    for title, model_type, settings in families:
        lines.append(row(title, model_type, settings))
        if names:
            sys.stdout.write(f"{lines[-1]}\n")
        sys.stderr.write(f"{len(lines) - 2} of {len(families)}: {model_type}\n")
    if names:
        return
    table = "\n".join(lines)
    text, count = re.subn(r"(?m)^\| family .*\n(\|.*\n)+", lambda _: f"{table}\n", PAGE.read_text())
    if count != 1:
        sys.exit(f"error: {PAGE} has {count} tables of families; keep exactly one")
    PAGE.write_text(text)


def row(title: str, model_type: str, settings: dict[str, Any]) -> str:
    """Check a family and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.AutoConfig.for_model(model_type, **settings)
        config.save_pretrained(folder)
        try:
            check = check_model(folder, ROW_FORMS, ATTENTIONS)
        except InputError as error:
            reason = str(error).replace(f"{folder} ", "").partition(";")[0].replace("|", "\\|")
            empty = " | ".join("" for _ in range(len(ROW_FORMS) * len(ATTENTIONS)))
            return f"| {title} (`{model_type}`) | {empty} | {reason} |"
    by_place = {(one.rows, one.attention): one for one in check.findings}
    cells = [_WORDS[by_place[form, name].outcome] for form in ROW_FORMS for name in ATTENTIONS]
    return f"| {title} (`{model_type}`) | {' | '.join(cells)} | {_why(check)} |"


def _why(check: ModelCheck) -> str:
    """Return the causes of all faults, each once, and where it shows first."""
    said = {}
    for one in check.findings:
        if one.outcome in ("leaks", "place"):
            said.setdefault(_where(one), None)
        elif one.outcome == "refused":
            said.setdefault(f"{one.attention}: {one.fault}", None)
    return "; ".join(said).replace("|", "\\|")


def _where(one: Finding) -> str:
    return f"`{one.layer}`: {one.cause}"


if __name__ == "__main__":
    main(sys.argv[1:])
