# SPDX-License-Identifier: Apache-2.0
"""Records what each layer of a Hugging Face model gives for each position, and its parts."""

from __future__ import annotations

import re
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor, nn

from megatron_packing.isolation.comparison import summarize
from megatron_packing.isolation.packed_row import PackedRow
from megatron_packing.isolation.small_config import num_layers

LOSSES = "losses"
"""The name of the last slot."""
_RECURRENT = re.compile(
    r"Mamba|Delta|RecurrentBlock|Lightning|LSTM|Rwkv|ShortConv|SSM|KDA|LinearAttention|Mixer2?$"
)
_POINTWISE = re.compile(r"Norm|MLP|Mlp|Experts|Router|Embedding|DecoderLayer|Block$")
_ATTENTION = re.compile(r"Attention|Attn|MLA")


class Recorder:
    """Watches the embedding, the layers, and the parts of each layer."""

    def __init__(self, model: Any) -> None:
        """Put hooks on a model; see ``close``.

        Raises:
            ValueError: It has no list of layers.
        """
        self.slots: list[str] = []
        """Names of modules in the order of their calls, and ``LOSSES``; a module that is called
        again has a number behind its name."""
        self.outputs: dict[tuple[str, str], Tensor] = {}
        """float32, ``(positions, NUMBERS)``, by row and slot."""
        self.losses: dict[str, Tensor] = {}
        """float32, ``(positions,)``, by row."""
        self.gradients: dict[tuple[str, str], Tensor] = {}
        """float32, ``(positions,)``: the largest of each position, by row and slot."""
        self.told: dict[str, frozenset[str]] = {}
        """By name of a module: the named arguments that it got, without those that are None."""
        self.masks: dict[str, bool] = {}
        """By name of a module that got a mask of pairs of positions: whether it lets documents see
        each other."""
        self.embedded: Tensor | None = None
        """The last output of the embedding."""
        self.modules = watched_modules(model)
        self._name, self._row, self._goes_back = "", PackedRow(torch.zeros(0), ()), False
        self._calls: dict[str, int] = {}
        embedding = next(iter(self.modules))
        self._handles = [
            module.register_forward_hook(self._hook(name, name == embedding), with_kwargs=True)
            for name, module in self.modules.items()
        ]

    def begin(self, name: str, row: PackedRow, *, goes_back: bool) -> None:
        """Say which row runs from now on.

        Args:
            name: A name of it.
            row: The row.
            goes_back: Whether a backward pass follows; gradients are recorded then, not outputs.
        """
        self._name, self._row, self._goes_back = name, row, goes_back
        self._calls = {}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def module_of(self, slot: str) -> nn.Module | None:
        """Return the module of a slot; None for the losses."""
        return self.modules.get(slot.partition(" ")[0])

    def _hook(self, name: str, is_embedding: bool) -> Any:
        def keep(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
            number = self._calls[name] = self._calls.get(name, 0) + 1
            slot = name if number == 1 else f"{name} (call {number})"
            self.told[name] = frozenset(key for key, value in kwargs.items() if value is not None)
            self._look_at_mask(name, kwargs.get("attention_mask"))
            tensor = _tensor_of(output)
            if tensor is None or (by_position := self._by_position(tensor)) is None:
                return
            if is_embedding:
                self.embedded = tensor
            if self._goes_back:
                self._keep_gradient(slot, tensor)
                return
            if slot not in self.slots:
                self.slots.append(slot)
            self.outputs[self._name, slot] = summarize(by_position.detach()).cpu()

        return keep

    def _keep_gradient(self, slot: str, output: Tensor) -> None:
        if not output.requires_grad:
            return
        key = self._name, slot

        def keep(gradient: Tensor) -> None:
            by_position = self._by_position(gradient.detach())
            if by_position is not None:
                self.gradients[key] = by_position.abs().flatten(1).amax(1).float().cpu()

        output.register_hook(keep)

    def _look_at_mask(self, name: str, mask: Any) -> None:
        segments = self._row.segments
        size = len(segments)
        if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[2:] != (size, size):
            return
        sees = mask if mask.dtype is torch.bool else mask > -1
        others = segments[:, None] != segments
        crosses = bool((sees & others.to(mask.device)).any())
        self.masks[name] = self.masks.get(name, False) or crosses

    def _by_position(self, tensor: Tensor) -> Tensor | None:
        """Return ``(positions, ...)``; None if a tensor has another form."""
        size = len(self._row.tokens)
        if tensor.ndim > 1 and tensor.shape[0] == 1 and tensor.shape[1] == size:
            return tensor[0]
        if tensor.ndim > 1 and tensor.shape[0] == size:
            return tensor
        return None


def watched_modules(model: Any) -> dict[str, nn.Module]:
    """Return by name the embedding, which comes first, the layers and the parts of each.

    Raises:
        ValueError: The model has no list of layers.
    """
    names = {id(module): name for name, module in model.named_modules()}
    embedding = model.get_input_embeddings()
    found = {names[id(embedding)]: embedding}
    for layer in decoder_layers(model):
        found[names[id(layer)]] = layer
        for part in layer.children():
            found.setdefault(names[id(part)], part)
    return found


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the list of layers: the outermost that is as long as the configuration says, or any.

    Raises:
        ValueError: There is none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    count = num_layers(model.config)
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return next((one for one in lists if len(one) == count), lists[0])


def is_recurrent(module: nn.Module | None) -> bool:
    """Whether a module carries something from position to position other than by attention."""
    if module is None:
        return False
    name = type(module).__name__
    has_convolution = any(isinstance(part, nn.Conv1d) for part in module.modules())
    return has_convolution or bool(_RECURRENT.search(name) and not _POINTWISE.search(name))


def is_attention(module: nn.Module | None) -> bool:
    """Whether a module is attention."""
    name = "" if module is None else type(module).__name__
    return bool(_ATTENTION.search(name) and not _POINTWISE.search(name))


def has_experts(model: nn.Module) -> bool:
    """Whether a model has experts."""
    return any("expert" in type(module).__name__.lower() for module in model.modules())


def kinds_of_layers(model: Any) -> tuple[str, ...]:
    """Return the classes of the parts of layers that mix positions, in the order of layers."""
    parts = [part for layer in decoder_layers(model) for part in layer.children()]
    mixing = [part for part in parts if is_attention(part) or is_recurrent(part)]
    return tuple(dict.fromkeys(type(part).__name__ for part in mixing))


def _tensor_of(output: Any) -> Tensor | None:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) and output.is_floating_point() else None
