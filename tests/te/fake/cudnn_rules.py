# SPDX-License-Identifier: Apache-2.0
"""When Transformer Engine's library offers fused attention for packed rows, as far as it is known.

The rules are those of ``nvte_get_fused_attn_backend`` in ``fused_attn.cpp`` of Transformer Engine
2.20.0.dev0 (2026-08-22), for half precision, as read there. Release 2.20.2 asks cuDNN itself
instead, so a later cuDNN may decide otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.te.fake.calls import MACHINE


@dataclass(frozen=True, slots=True)
class Question:
    """The parameters of an attention that the rules read, in the library's names."""

    dtype: str
    layout: str
    mask: str
    softmax: str
    is_training: bool
    dropout: float
    max_seqlen_kv: int
    channels_qk: int
    channels_v: int
    window: tuple[int, int]
    return_max_logit: bool
    deterministic: bool


def why_not(asked: Question) -> str:
    """Return the reasons why there is no fused attention; empty if there is."""
    return "; ".join(_reasons(asked))


def _reasons(asked: Question) -> Iterator[str]:
    major, minor, patch = MACHINE.cudnn
    cudnn = major * 10_000 + minor * 100 + patch
    sm = MACHINE.capability[0] * 10 + MACHINE.capability[1]
    is_packed = asked.layout.startswith("NVTE_THD")
    if asked.dtype.startswith("kFloat8"):
        if is_packed:
            yield "FP8 attention takes bshd, sbhd and bhsd, not thd"
        return
    if asked.dtype not in ("kFloat16", "kBFloat16"):
        yield f"the data type is {asked.dtype}"
        return
    if cudnn < (8_903 if sm < 100 else 90_700) or sm < 80:
        yield f"compute capability {sm} needs a later cuDNN than {cudnn}"
    if not _takes_channels(asked, sm, cudnn):
        yield f"heads of {asked.channels_qk} and {asked.channels_v} channels"
    if is_packed and (sm < 90 or cudnn < 90_600):
        yield "packed rows need compute capability 9.0 and cuDNN 9.6"
    if is_packed and asked.window[0] != -1 and asked.dropout:
        yield "a window with dropout"
    if cudnn in (91_000, 91_001):
        yield "cuDNN 9.10.0 and 9.10.1 are excluded"
    if asked.softmax != "NVTE_VANILLA_SOFTMAX" and cudnn < 91_301:
        yield "this softmax needs cuDNN 9.13.1"
    if asked.return_max_logit and cudnn < 92_100:
        yield "the largest logit needs cuDNN 9.21"
    is_deterministic = asked.is_training and asked.deterministic
    if is_deterministic and sm >= 100 and (cudnn < 91_801 or asked.dropout or sm == 120):
        yield "deterministic attention needs cuDNN 9.18.1 and no dropout"
    if cudnn == 91_400 and asked.max_seqlen_kv > 1024 and asked.window[0] != -1:
        yield "cuDNN 9.14.0 is excluded with a window"
    if sm == 120 and cudnn < 91_801:
        yield "compute capability 12.0 needs cuDNN 9.18.1"


def _takes_channels(asked: Question, sm: int, cudnn: int) -> bool:
    qk, v = asked.channels_qk, asked.channels_v
    largest = max(qk, v)
    if qk % 8 or v % 8:
        return False
    is_latent = (qk, v) == (192, 128)
    if sm == 90 and asked.is_training and cudnn >= 91_100 and min(qk, v) >= 128 and qk != v:
        return is_latent
    if largest <= 128:
        return True
    if not asked.is_training and cudnn >= (90_900 if sm >= 100 else 91_002):
        return True
    if largest <= 256 and sm == 90:
        return cudnn >= (90_500 if asked.is_training else 90_100)
    if is_latent and sm >= 100:
        return cudnn >= 91_100
    if qk == v == 256 and 100 <= sm < 110:
        return cudnn >= (92_500 if asked.layout.startswith("NVTE_THD") else 92_300)
    return False


def from_parameters(parameters: object) -> Question:
    """Read the parameter object that the binding takes from 2.18 on."""
    read = parameters.__getattribute__
    return Question(
        dtype=read("qkv_dtype").name,
        layout=read("qkv_layout").name,
        mask=read("attn_mask_type").name,
        softmax=read("softmax_type").name,
        is_training=read("is_training"),
        dropout=read("dropout"),
        max_seqlen_kv=read("max_seqlen_kv"),
        channels_qk=read("head_dim_qk"),
        channels_v=read("head_dim_v"),
        window=(read("window_size_left"), read("window_size_right")),
        return_max_logit=bool(getattr(parameters, "return_max_logit", False)),
        deterministic=bool(getattr(parameters, "deterministic", False)),
    )


def from_arguments(arguments: tuple) -> Question:
    """Read the arguments that the binding takes before 2.18.

    Whether the run trains came first in 2.4, the softmax type in 2.8, and more at the end later.
    """
    given = list(arguments)
    is_training = given.pop(0) if isinstance(given[0], bool) else True
    dtype, _, layout, _, mask, *rest = given
    softmax = rest.pop(0).name if hasattr(rest[0], "name") else "NVTE_VANILLA_SOFTMAX"
    dropout, _, _, _, max_seqlen_kv, channels_qk, channels_v, left, right, *last = rest
    return Question(
        dtype=dtype.name,
        layout=layout.name,
        mask=mask.name,
        softmax=softmax,
        is_training=is_training,
        dropout=dropout,
        max_seqlen_kv=max_seqlen_kv,
        channels_qk=channels_qk,
        channels_v=channels_v,
        window=(left, right),
        return_max_logit=bool(last[0]) if last else False,
        deterministic=bool(last[2]) if len(last) > 2 else False,
    )
