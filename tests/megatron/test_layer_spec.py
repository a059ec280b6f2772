# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import logging
import sys
import types
import warnings
from importlib.machinery import ModuleSpec

import pytest

pytest.importorskip("megatron.core")

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend

from megatron_packing.errors import InputError
from megatron_packing.thd import attention

with warnings.catch_warnings():  # of what Megatron misses on a CPU
    warnings.simplefilter("ignore")
    from megatron_packing.megatron import layer_spec


@pytest.fixture
def card(monkeypatch):
    """Pretend to be on a GPU with Transformer Engine, of a capability and with a cuDNN."""

    def pretend(capability: tuple[int, int], cudnn: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        found = ModuleSpec("transformer_engine", None)
        real = importlib.util.find_spec
        monkeypatch.setattr(
            layer_spec, "find_spec", lambda n: found if n == found.name else real(n)
        )

    return pretend


def config(channels: int, backend: AttnBackend = AttnBackend.auto) -> TransformerConfig:
    with warnings.catch_warnings():  # of its own old default
        warnings.simplefilter("ignore")
        made = TransformerConfig(
            num_layers=1, hidden_size=64, num_attention_heads=2, kv_channels=channels
        )
    made.transformer_impl = "transformer_engine"
    made.attention_backend = backend
    return made


def test_heads_that_were_seen_to_be_wrong_are_refused(card):
    card((9, 0), 91900)
    with pytest.raises(InputError, match=r"256 channels.*cuDNN 9\.19 .*--attention-backend flash"):
        layer_spec.choose_backend(config(256))


@pytest.mark.parametrize("channels", [64, 128])
def test_heads_that_were_measured_are_taken(card, channels, caplog):
    card((9, 0), 91900)
    with caplog.at_level(logging.WARNING):
        assert layer_spec.choose_backend(config(channels)) == "transformer_engine"
    assert "compared" not in caplog.text


def test_another_attention_of_transformer_engine_is_taken_for_large_heads(card):
    card((9, 0), 91900)
    chosen = layer_spec.choose_backend(config(256, AttnBackend.flash))
    assert chosen == "transformer_engine"


@pytest.mark.parametrize(("capability", "cudnn"), [((10, 0), 91900), ((9, 0), 92500)])
def test_large_heads_that_nobody_compared_are_said(card, capability, cudnn, caplog):
    card(capability, cudnn)
    with caplog.at_level(logging.WARNING):
        assert layer_spec.choose_backend(config(256)) == "transformer_engine"
    assert "was not compared with float64" in caplog.text


@pytest.mark.parametrize("takes_groups", [True, False])
def test_heads_share_keys_with_every_varlen_attention_of_torch(monkeypatch, takes_groups):
    """torch 2.11 takes no groups: its kernel gets keys and values for every head."""
    seen = {}

    def new(q, k, v, a, b, c, d, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        del v, a, b, c, d, scale, window_size
        seen.update(heads=k.shape[1], groups=enable_gqa)
        return q

    def old(q, k, v, a, b, c, d, *, scale=None, window_size=(-1, -1)):
        del v, a, b, c, d, scale, window_size
        seen.update(heads=k.shape[1], groups=False)
        return q

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = new if takes_groups else old
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert attention.takes_scale_and_window()
    query, key = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8)
    offsets = torch.tensor([0, 6], dtype=torch.int32)
    attention.varlen_attention(query, key, key, offsets, 1.0, max_seqlen=6)
    assert seen == ({"heads": 2, "groups": True} if takes_groups else {"heads": 4, "groups": False})
