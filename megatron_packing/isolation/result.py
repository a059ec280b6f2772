# SPDX-License-Identifier: Apache-2.0
"""What the check of a model found. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RowForm = Literal["positions", "varlen", "cu_seqlens"]
"""How a packed row is told to a model: by ``position_ids`` that restart in each document, or by
these with what ``DataCollatorWithFlattening`` adds: ``cu_seq_lens_q`` and ``_k``, ``max_length_q``
and ``_k``, ``seq_idx``. Models of Megatron get ``PackedSeqParams`` with ``cu_seqlens``."""
ROW_FORMS: tuple[RowForm, ...] = ("positions", "varlen")
"""The forms for models of transformers."""

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
"""The attention implementations of transformers that most models have."""

Outcome = Literal["apart", "leaks", "place", "refused", "absent"]
"""Documents are apart; they see each other; a document has other losses than alone, though it sees
no other; the model raised an error; the model does not have this attention implementation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one form of rows and one attention implementation gave."""

    rows: RowForm
    attention: str
    """An implementation of transformers, or whose layers a model of Megatron has: "local",
    "transformer_engine", or the user's "own"."""
    outcome: Outcome
    moved: float = 0.0
    """By how much losses moved at most when other documents changed."""
    alone: float = 0.0
    """By how much losses differ at most from those of documents alone."""
    gradient: float = 0.0
    """The largest share of a document's gradient that another one got."""
    fault: str = ""
    """The sentence that says what is wrong, without its end."""
    layer: str = ""
    """Where it shows first, such as ``model.layers.0.linear_attn``."""
    cause: str = ""
    """What likely causes it, without its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCheck:
    """What was built, and what each form and implementation gave."""

    model: str
    """The name of the class."""
    num_layers: int
    num_parameters: int
    kinds: tuple[str, ...]
    """The kinds of layers, by the names of the classes that mix positions."""
    stand_ins: tuple[str, ...]
    """Kernels that were computed by transformers' own torch functions, document by document."""
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()
    """Sentences on what was run, and what was not."""

    @property
    def faults(self) -> list[Finding]:
        """The findings where documents see each other or depend on their place."""
        return [one for one in self.findings if one.outcome in ("leaks", "place")]
