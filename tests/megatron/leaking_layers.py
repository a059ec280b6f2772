# SPDX-License-Identifier: Apache-2.0
"""Layer specs for --spec: right ones, and one whose third layer lets documents see each other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from megatron_packing.megatron.any_attention import AnyAttention
from megatron_packing.megatron.layer_spec import local_layer_spec


class RowAttention(AnyAttention):
    """Attends to the whole row."""

    def attend(self, query: Any, key: Any, value: Any, packed: Any) -> Any:
        whole = replace(packed, cu_seqlens_q=packed.cu_seqlens_q[[0, -1]])
        return super().attend(query, key, value, whole)


def right(config: Any, vp_stage: int | None = None) -> Any:
    return local_layer_spec(config.transformer, vp_stage, AnyAttention)


def leaking(config: Any, vp_stage: int | None = None) -> Any:
    block = right(config, vp_stage)
    third = copy.deepcopy(block.layer_specs[2])  # layers may share their specs
    third.submodules.self_attention.submodules.core_attention = RowAttention
    block.layer_specs[2] = third
    return block
