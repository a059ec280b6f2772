# SPDX-License-Identifier: Apache-2.0
"""Asks Transformer Engine which kernel it would compute an attention over packed rows with.

It logs why it excludes a kernel only for debugging, so the question collects these messages.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

Kind = Literal["flash-attn", "cuDNN", "unfused", "none"]

_MODULES = (
    "transformer_engine.pytorch.attention.dot_product_attention.utils",
    "transformer_engine.pytorch.dot_product_attention.utils",  # before 2.4
)
_VARIABLES = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")
# What Megatron sets them to when it builds a model (_set_attention_backend in language_module.py).
_BY_BACKEND = {
    "local": "000",
    "flash": "100",
    "fused": "010",
    "unfused": "001",
    "auto": "111",
}


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of some layers of a run, on one rank."""

    heads: int
    """Query heads of this tensor-parallel rank."""
    groups: int
    """Key and value heads of this tensor-parallel rank."""
    channels: tuple[int, int]
    """Channels of a query or key head, and of a value head."""
    dtype: torch.dtype
    positions: int
    """Positions of a row, of all context-parallel ranks."""
    width: int
    """Entries of ``cu_seqlens``."""
    max_seqlen: int
    window: tuple[int, int] = (-1, 0)
    softmax: str = "vanilla"
    dropout: float = 0.0
    ranks: int = 1
    """Context-parallel ranks."""
    ranks_of_a2a: int = 1
    """The ranks of its first level, for ``a2a+p2p``."""
    communication: str = "p2p"
    is_deterministic: bool = False
    returns_max_logit: bool = False
    backend: str = "auto"
    """Megatron's ``--attention-backend``."""

    @property
    def gigabytes_unfused(self) -> float:
        """Size of the scores of one layer if no fused kernel computes them."""
        scores = (self.width - 1) * self.heads * self.max_seqlen**2
        return scores * self.dtype.itemsize / 1e9


@dataclass(frozen=True, slots=True)
class Choice:
    """What Transformer Engine computes an attention with."""

    kind: Kind
    reasons: tuple[str, ...]
    """Why it does not use the other kernels, in its words."""


def ask_transformer_engine(attention: Attention) -> Choice:
    """Return what Transformer Engine would choose for an attention on this rank's GPU."""
    utils = _utils()
    window = attention.window
    channels_qk, channels_v = attention.channels
    held = attention.positions // attention.ranks
    given = {
        "qkv_type": torch.Tensor,
        "qkv_dtype": attention.dtype,
        "qkv_layout": "thd_thd_thd",
        "batch_size": attention.width - 1,
        "num_heads": attention.heads,
        "num_gqa_groups": attention.groups,
        "max_seqlen_q": attention.max_seqlen,
        "max_seqlen_kv": attention.max_seqlen,
        "num_tokens_q": held,
        "num_tokens_kv": held,
        "head_dim_qk": channels_qk,
        "head_dim_v": channels_v,
        "attn_mask_type": "padding_causal",
        "window_size": window,
        "bottom_right_diagonal": False,
        "pad_between_seqs": False,
        "attention_dropout": attention.dropout,
        "context_parallel": attention.ranks > 1,
        "cp_comm_type": attention.communication,
        "cp_size": attention.ranks,
        "cp_size_a2a": attention.ranks_of_a2a,
        "deterministic": attention.is_deterministic,
        "is_training": True,
        "core_attention_bias_shape": None,
        "core_attention_bias_requires_grad": False,
        "fp8": False,
        "fp8_meta": {"recipe": None},
        "softmax_type": attention.softmax,
        "return_max_logit": attention.returns_max_logit,
        "softmax_scale": channels_qk**-0.5,
    }
    known = {field.name for field in fields(utils.AttentionParams)}
    parameters = utils.AttentionParams(**{n: v for n, v in given.items() if n in known})
    with _as_megatron_sets(attention.backend), _listening(utils) as reasons:
        flash, _, fused, _, unfused, *_ = utils.get_attention_backend(parameters)
    kind: Kind = "flash-attn" if flash else "cuDNN" if fused else "unfused" if unfused else "none"
    return Choice(kind, tuple(dict.fromkeys(reasons)))


def cudnn_release() -> tuple[int, int]:
    """Return the major and minor version of the cuDNN that Transformer Engine uses.

    It may be another one than that of torch's packages.
    """
    utils = importlib.import_module("transformer_engine.pytorch.utils")
    major, minor, _ = utils.get_cudnn_version()
    return major, minor


def has_flash_attention() -> bool:
    """Whether Transformer Engine finds an installed flash-attn 2."""
    return bool(getattr(_utils().FlashAttentionUtils, "is_installed", False))


def _utils() -> Any:
    for name in _MODULES[:-1]:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return importlib.import_module(_MODULES[-1])


@contextlib.contextmanager
def _as_megatron_sets(backend: str) -> Iterator[None]:
    """Set Transformer Engine's variables as Megatron does, for a while."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(zip(_VARIABLES, _BY_BACKEND.get(backend, "111"), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Reasons(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Disabling"):
            self.found.append(" ".join(text.split()).rstrip("."))


@contextlib.contextmanager
def _listening(utils: Any) -> Iterator[list[str]]:
    """Collect why Transformer Engine excludes kernels; it logs that only for debugging."""
    logger, handler = logging.getLogger("DotProductAttention"), _Reasons()
    levels = utils.AttentionLogging._log_level, logger.level
    propagate = logger.propagate
    others = [*logger.handlers]
    logger.handlers[:] = [handler]
    logger.propagate = False
    utils.AttentionLogging._log_level = logging.DEBUG
    try:
        yield handler.found
    finally:
        utils.AttentionLogging._log_level = levels[0]
        logger.setLevel(levels[1])
        logger.handlers[:] = others
        logger.propagate = propagate
