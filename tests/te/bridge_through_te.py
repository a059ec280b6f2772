# SPDX-License-Identifier: Apache-2.0
"""What ``use_packed_data`` and Bridge's own get_batch do where Transformer Engine is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bridge.absent import prepare_bridge

prepare_bridge()

import torch
from megatron.bridge.models.exaone.exaone_moe.exaone_moe_provider import ExaoneMoeModelProvider
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.models.mla_provider import MLAModelProvider
from megatron.bridge.recipes.common import _sft_common
from megatron.bridge.training import gpt_step
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_packing import Corpus, PackIndex
from megatron_packing.bridge.dataset import PackedRowDataset
from megatron_packing.bridge.recipe import Change, use_packed_data
from megatron_packing.bridge.rotation import describe_recipe_rotation
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows
from tests.conftest import chat_like_lengths, write_corpus
from tests.te.fake.waits import on_host, recorded_waits

ROW = 256
MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "rope": (GPTModelProvider, {"position_embedding_type": "rope"}),
    "fused": (GPTModelProvider, {"position_embedding_type": "rope", "apply_rope_fusion": True}),
    "yarn": (GPTModelProvider, {"position_embedding_type": "yarn"}),
    "factor": (
        GPTModelProvider,
        {"position_embedding_type": "rope", "yarn_rotary_scaling_factor": 4.0},
    ),
    "local": (GPTModelProvider, {"position_embedding_type": "rope", "transformer_impl": "local"}),
    "learned": (GPTModelProvider, {"position_embedding_type": "learned_absolute"}),
    "latent": (MLAModelProvider, {"position_embedding_type": "rope"}),
    "choice of a class": (ExaoneMoeModelProvider, {}),
}


def _make_recipe(provider: type, index: PackIndex, **settings: Any) -> tuple[Any, list[Change]]:
    cfg = _sft_common()
    cfg.model = provider(
        num_layers=2, hidden_size=64, num_attention_heads=4, seq_length=ROW, **settings
    )
    cfg.mixed_precision = None
    cfg.checkpoint.save = cfg.checkpoint.load = None
    return cfg, use_packed_data(cfg, train=index.path, quiet=True)


def _make_index(folder: str) -> tuple[PackIndex, Corpus]:
    corpus = write_corpus(Path(folder) / "corpus", chat_like_lengths(50, longest=ROW))
    plan = PlanSettings(strategy="optimal", sequence_length=ROW, seed=1)
    return build_pack_index(corpus, plan, Path(folder) / "packs"), corpus


def change_rotation(folder: str) -> dict[str, Any]:
    """Return for each model whether fusion was changed, and what the log says then."""
    index, _ = _make_index(folder)
    found = {}
    for name, (provider, settings) in MODELS.items():
        cfg, changes = _make_recipe(provider, index, **settings)
        found[name] = {
            "change": [
                f"{one.was} -> {one.now} ({one.why})"
                for one in changes
                if one.setting == "model.apply_rope_fusion"
            ],
            "line": describe_recipe_rotation(cfg.model),
        }
    return found


def find_waits(folder: str, pinned: str) -> dict[str, Any]:
    """Return where Bridge's own get_batch would wait, from a loader that pins memory or not."""
    index, corpus = _make_index(folder)
    cfg, _ = _make_recipe(GPTModelProvider, index)
    rows = PackedRows(index=index, corpus=corpus, seed=1, new_order_each_epoch=True)
    dataset = PackedRowDataset([rows], 8)
    row = dataset.collate_fn([dataset[3]])
    groups = ProcessGroupCollection.use_mpu_process_groups()
    with recorded_waits() as (waits, _):
        iterator = iter([on_host(row, pinned=pinned == "pinned")])
        tokens, *_, packed = gpt_step.get_batch(iterator, cfg, pg_collection=groups)
        parameters = gpt_step.get_packed_seq_params(packed)
    assert torch.equal(tokens, row["tokens"])
    assert parameters.max_seqlen_q == rows.shape.max_seqlen
    return {"waits": waits}
