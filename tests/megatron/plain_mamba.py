# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Mamba's mixer in plain torch: a convolution and a recurrence that take seq_idx."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.ssm import mamba_mixer
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor

from megatron_packing.megatron import hybrid_layer_spec

TAPS = 4


class PlainMixer(MegatronModule):
    """``(positions, 1, hidden size)`` to the same, each channel apart."""

    cuts_convolution = True
    cuts_state = True

    def __init__(self, config: Any, *, d_model: int, **_: Any) -> None:
        super().__init__(config)
        self.taps = torch.nn.Parameter(torch.linspace(0.1, 0.4, TAPS))
        self.decay = torch.nn.Parameter(torch.tensor(0.8))
        self.scale = torch.nn.Parameter(torch.ones(d_model))

    def forward(
        self, hidden: Tensor, inference_context: Any = None, packed_seq_params: Any = None
    ) -> tuple[Tensor, None]:
        del inference_context
        rows = hidden.squeeze(1)
        documents = packed_seq_params.seq_idx
        documents = torch.zeros(len(rows)) if documents is None else documents.view(-1)
        back = torch.arange(len(rows))[:, None] - torch.arange(len(rows))
        sees = back >= 0
        same = sees & (documents[:, None] == documents)
        seen = (same if self.cuts_convolution else sees) & (back < TAPS)
        rows = (self.taps[back.clamp(0, TAPS - 1)] * seen) @ rows
        seen = same if self.cuts_state else sees
        rows = (self.decay ** back.clamp(min=0) * seen) @ rows
        return (rows * self.scale).unsqueeze(1), None


def install() -> None:
    """Let layers M of local hybrid models be built with it."""
    mamba_mixer.HAVE_MAMBA_SSM = True
    layer = hybrid_layer_spec._mamba_layer()
    spec = ModuleSpec(
        module=MambaLayer,
        submodules=MambaLayerSubmodules(
            norm=layer.submodules.norm,
            mixer=ModuleSpec(module=PlainMixer),
            mamba_bda=layer.submodules.mamba_bda,
        ),
    )
    hybrid_layer_spec._mamba_layer = lambda: spec
