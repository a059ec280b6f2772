# SPDX-License-Identifier: Apache-2.0
"""What Transformer Engine computes attention over packed rows with, by configuration and GPU.

Transformer Engine's own selection, on the CPU: see ``fake.install``. Whether cuDNN has a kernel is
what ``fake.cudnn_rules`` says.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
import transformer_engine

from megatron_packing.errors import InputError
from megatron_packing.megatron.attention_choice import attentions_of, check_attention
from megatron_packing.megatron.attention_limits import attention_problems
from megatron_packing.megatron.attention_question import ask_transformer_engine
from megatron_packing.megatron.flags import flag_of
from megatron_packing.thd.row_shape import RowShape
from tests.te.fake.calls import MACHINE
from tests.te.fake.install import pretend_flash_attention

ROW = 8192
SHAPE = RowShape(width=129, max_seqlen=7168)
MODEL = {
    "transformer_impl": "transformer_engine",
    "num_layers": 2,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 128,
    "params_dtype": torch.bfloat16,
}
LATENT = {
    "multi_latent_attention": True,
    "qk_head_dim": 128,
    "qk_pos_emb_head_dim": 64,
    "v_head_dim": 128,
}
WINDOW = {"window_size": (4095, 0)}
SINK = {"softmax_type": "learnable", "kv_channels": 64}
OFF_BY_ONE = {"softmax_type": "off-by-one", "kv_channels": 64}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "heads of 128 channels, grouped queries": {},
    "heads of 64 channels": {"kv_channels": 64, "num_query_groups": None},
    "attention dropout": {"attention_dropout": 0.1},
    "heads of 256 channels": {"kv_channels": 256, "num_attention_heads": 16},
    "multi-latent attention, 192 and 128 channels": LATENT,
    "sliding window": WINDOW,
    "learnable sink": SINK,
    "learnable sink and sliding window": SINK | {"window_size": (127, 0)},
    "deterministic mode": {"deterministic_mode": True},
    "QK clipping": {"qk_clip": True},
    "float32": {"params_dtype": torch.float32},
    "FP8 attention": {"fp8": "hybrid", "fp8_dot_product_attention": True},
    **{
        f"context parallelism by {kind}{name}": {
            "context_parallel_size": 4 if "+" in kind else 2,
            "cp_comm_type": kind,
            **({"hierarchical_context_parallel_sizes": [2, 2]} if "+" in kind else {}),
            **settings,
        }
        for kind in ("p2p", "a2a", "all_gather", "a2a+p2p")
        for name, settings in (
            ("", {}),
            (", sliding window", WINDOW),
            (", off-by-one sink", OFF_BY_ONE),
            (", learnable sink", SINK),
        )
    },
}
MACHINES = {
    f"{sm[0]}.{sm[1]}{', flash-attn' if has_flash else ''}": (sm, has_flash)
    for sm in ((8, 0), (9, 0), (10, 0))
    for has_flash in (False, True)
}


def _settings(changes: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**MODEL | changes)


def _become(machine: str, cudnn: tuple[int, int, int] = (9, 21, 0)) -> None:
    MACHINE.capability, has_flash = MACHINES[machine]
    MACHINE.cudnn = cudnn
    pretend_flash_attention(has_flash)


def _refusal(settings: SimpleNamespace, *, is_allowed: bool = False) -> str:
    """Return why a run is refused before its first step; empty if it is not."""
    for problem in attention_problems(settings, flag_of):
        return problem
    try:
        check_attention(
            settings,
            flag_of,
            positions=ROW,
            shape=SHAPE,
            allow_unfused=("--packing-allow-unfused-attention", is_allowed),
        )
    except InputError as error:
        return str(error)
    return ""


def _kind(settings: SimpleNamespace) -> str:
    """Return what Transformer Engine selects for all layers."""
    (attention,) = attentions_of(settings, ROW, SHAPE).values()
    return "none" if getattr(settings, "fp8", None) else ask_transformer_engine(attention).kind


def make_table() -> str:
    """Return the table in Markdown; "refused" is what this package adds to the selection."""
    lines = [
        f"| configuration | {' | '.join(MACHINES)} |",
        "| --- |" + " --- |" * len(MACHINES),
    ]
    for name, changes in CONFIGURATIONS.items():
        cells = []
        for machine in MACHINES:
            _become(machine)
            settings = _settings(changes)
            refused = ", refused" if _refusal(settings) else ""
            cells.append(f"{_kind(settings)}{refused}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def refusals() -> dict[str, Any]:
    """Return the selection and the refusal of every configuration on every machine."""
    found: dict[str, Any] = {"release": transformer_engine.__version__, "rows": []}
    for name, changes in CONFIGURATIONS.items():
        for machine in MACHINES:
            _become(machine)
            settings = _settings(changes)
            found["rows"].append(
                {
                    "configuration": name,
                    "machine": machine,
                    "kind": _kind(settings),
                    "refusal": _refusal(settings),
                    "refusal if allowed": _refusal(settings, is_allowed=True),
                }
            )
    return found


def check_paths() -> dict[str, Any]:
    """Return what the trainers' own checks say of a run on an A100 without flash-attn."""
    from megatron_packing.bridge.checks import check_kernels
    from megatron_packing.megatron import trainer

    _become("8.0")
    arguments = _settings(
        {"seq_length": ROW, "packing_allow_unfused_attention": False, "group_query_attention": True}
    )
    part = SimpleNamespace(rows=SimpleNamespace(shape=SHAPE))
    index = SimpleNamespace(
        plan=SimpleNamespace(sequence_length=ROW, alignment=1),
        figures=SimpleNamespace(max_documents_per_pack=126),
        longest_segment=7168,
    )
    split = SimpleNamespace(indexes=[index])
    data = SimpleNamespace(seq_length=ROW, allow_unfused_attention=False, attention="document")
    cfg = SimpleNamespace(model=_settings({}), dataset=data)
    found = {}
    for name, check in {
        "megatron": lambda: trainer._check_attention([part], arguments),
        "bridge": lambda: check_kernels(cfg, {"train": split}),
    }.items():
        try:
            check()
        except InputError as error:
            found[name] = str(error)
    return found


def check_settings(machine: str, changes: str, cudnn: str = "[9, 21, 0]") -> dict[str, Any]:
    """Return what is said of a run with some changed settings, in JSON, on a machine."""
    _become(machine, tuple(json.loads(cudnn)))
    given = json.loads(changes)
    if given.get("params_dtype"):
        given["params_dtype"] = getattr(torch, given["params_dtype"])
    try:
        lines = check_attention(
            _settings(given),
            flag_of,
            positions=ROW,
            shape=SHAPE,
            allow_unfused=("--packing-allow-unfused-attention", False),
        )
    except InputError as error:
        return {"refusal": str(error)}
    return {"lines": lines}
