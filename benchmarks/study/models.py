# SPDX-License-Identifier: Apache-2.0
"""Models that attend in spans of a packed row, and their losses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from benchmarks.study.batches import Row
from megatron_packing.thd.attention import packed_attention

PACKED = "packed_spans"
"""The name of this project's attention among those of transformers."""


def _attend(_module, query, key, value, _mask, *, scaling, cu_seqlens, sees, **_):
    """Attend within spans, for transformers: tensors are ``(1, heads, positions, dim)``.

    By ``packed_attention``; with a mask, which takes fewer kernels; or in bfloat16 by matrix
    products, which take less time on a CPU than torch's kernel.
    """
    if sees is not None or query.dtype == torch.bfloat16:
        group = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(group, dim=1) for one in (key, value))
    if sees is not None:
        output = scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=scaling)
        return output.transpose(1, 2), None
    if query.dtype == torch.bfloat16:
        lengths = cu_seqlens.diff().tolist()
        each = zip(*(one[0].split(lengths, dim=1) for one in (query, key, value)), strict=True)
        output = torch.cat([_attend_to_span(*span, scaling) for span in each], dim=1)
        return output.transpose(0, 1)[None], None
    spans = (one[0].transpose(0, 1) for one in (query, key, value))
    return packed_attention(*spans, cu_seqlens, scaling).unsqueeze(0), None


def _attend_to_span(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend causally: tensors are ``(heads, positions, dim)``."""
    positions = query.shape[1]
    later = torch.full((positions, positions), -torch.inf, dtype=query.dtype).triu(1)
    scores = torch.baddbmm(later.expand(len(query), -1, -1), query, key.mT, alpha=scaling)
    return scores.softmax(-1) @ value


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def make_tiny_model(
    vocabulary: int, longest: int, seed: int, hidden: int = 128, layers: int = 4
) -> PreTrainedModel:
    """Make a Llama with random weights: of about a million parameters with 2,048 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def load_model(folder: Path) -> PreTrainedModel:
    """Load a model that ``save_pretrained`` wrote."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_cache=False)


def compute_in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Compute the model's products in bfloat16, and compile its layers; weights stay float32.

    Returns:
        The model, which is changed in place.
    """
    for part in (model.model, model.lm_head):
        part.forward = torch.autocast(model.device.type, torch.bfloat16)(part.forward)
    AttentionInterface.register(PACKED, torch.compiler.disable(_attend))
    for layer in model.model.layers:
        layer.compile(dynamic=True)
    return model


def hash_weights(model: PreTrainedModel) -> str:
    """Return the first digits of the SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def packed_loss(model: PreTrainedModel, rows: list[Row], *, by_mask: bool | None = None) -> Tensor:
    """Return the sum of weight * loss over the trained tokens of packed rows, computed at once.

    Args:
        model: The model.
        rows: The rows.
        by_mask: Whether attention gets a mask instead of spans; by default on a GPU.
    """
    model.set_attn_implementation(PACKED)
    tokens, labels, position_ids, weights = (
        torch.cat([getattr(row, name) for row in rows]).to(model.device)
        for name in ("tokens", "labels", "position_ids", "weights")
    )
    lengths = torch.tensor([length for row in rows for length in row.lengths])
    if by_mask is None:
        by_mask = model.device.type == "cuda"
    hidden = model.model(
        input_ids=tokens[None],
        position_ids=position_ids[None],
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        sees=_mask_of(lengths.to(model.device)) if by_mask else None,
    ).last_hidden_state[0]
    return _loss_of(model, hidden, labels, weights)


def _mask_of(lengths: Tensor) -> Tensor:
    """Return bool, ``(1, 1, positions, positions)``: what each position of a row sees."""
    span = torch.repeat_interleave(lengths)
    return (span[:, None] == span).tril()[None, None]


def padded_loss(model: PreTrainedModel, rows: list[Row]) -> Tensor:
    """Compute ``packed_loss`` with a padded row for each document, by torch's own attention."""
    model.set_attn_implementation("sdpa")
    tokens, labels, weights = (
        pad_sequence(
            [part for row in rows for part in getattr(row, name).split(row.lengths)],
            batch_first=True,
        ).to(model.device)
        for name in ("tokens", "labels", "weights")
    )
    hidden = model.model(input_ids=tokens).last_hidden_state
    return _loss_of(model, hidden.flatten(0, 1), labels.flatten(), weights.flatten())


@torch.no_grad()
def single_loss(model: PreTrainedModel, row: Row) -> float:
    """Return the mean loss of the trained tokens of one document that is alone in its batch."""
    return float(padded_loss(model, [row])) / float(row.weights.sum())


def _loss_of(model: PreTrainedModel, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    at = weights > 0
    logits = model.lm_head(hidden[at]).float()
    return (cross_entropy(logits, labels[at], reduction="none") * weights[at]).sum()
