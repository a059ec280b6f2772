# SPDX-License-Identifier: Apache-2.0
"""Records what the packing check compares: layer outputs, losses, gradients, what layers are told.

A slot is a place in the model: 0 is the embedding, 1 to the number of layers are the layers'
outputs, then come those of layers of multi-token prediction, and the last slot is the losses.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.moe.router import Router
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from torch import Tensor

from megatron_packing.isolation.comparison import summarize
from megatron_packing.megatron.isolation_rows import RowLayout, Sample


class Sign(enum.IntEnum):
    """What is known of a slot, as numbers so that ranks can take the maximum; 0 means no."""

    STAGE = 0
    """One more than the pipeline stage."""
    IS_MAMBA = enum.auto()
    IS_DELTA_NET = enum.auto()
    HAS_EXPERTS = enum.auto()
    NO_BOUNDARIES = enum.auto()
    """The layer got no ``cu_seqlens``."""
    OTHER_BOUNDARIES = enum.auto()
    """The layer got other ``cu_seqlens`` than the row's."""
    FOUND_END = enum.auto()
    EXPECTED_END = enum.auto()
    """The first entries of them that differ."""
    NO_SEGMENT_INDEX = enum.auto()
    """A Mamba layer got no ``seq_idx``."""
    ANGLES_OF_ROW = enum.auto()
    """Unfused rotary embeddings take the table of angles for one of the row's positions."""
    LOST_IN_BACKWARD = enum.auto()
    """The boundaries were wrong in the backward pass alone, where layers are computed again."""
    OTHER_TOKENS = enum.auto()
    """The embedding got other tokens than this rank's chunks of the row."""
    OTHER_POSITIONS = enum.auto()
    """The embedding got other position ids."""
    COUNTS_PADDING = enum.auto()
    """A balancing loss depends on padding."""
    IS_MULTI_TOKEN = enum.auto()
    """A layer of multi-token prediction."""


class Recorder:
    """Watches the chunks of a model on one rank."""

    def __init__(self, model: list[Any], *, needs_segment_index: bool) -> None:
        """Watch nothing yet; see ``watch``.

        Args:
            model: The chunks of this rank, wrapped or not.
            needs_segment_index: Whether Mamba layers need ``seq_idx``.
        """
        self.config = get_model_config(model[0])
        self._num_layers = self.config.num_layers
        self.num_slots = 1 + self._num_layers + (self.config.mtp_num_layers or 0) + 1
        self.outputs: dict[tuple[str, int], Tensor] = {}
        """float32, ``(local positions, NUMBERS)``, by row and slot."""
        self.losses: dict[str, Tensor] = {}
        """float32, ``(local positions,)``, by row."""
        self.gradients: dict[tuple[str, int], Tensor] = {}
        """float32, ``(local positions,)``: the largest of each position, by row and slot."""
        self.signs = torch.zeros(self.num_slots, len(Sign))
        self.signs[self._num_layers + 1 : -1, Sign.IS_MULTI_TOKEN] = 1.0
        self._model = model
        self._needs_segment_index = needs_segment_index
        self._row, self._layout = "", RowLayout((), ())
        self._sample: Sample | None = None
        self._goes_back = False
        self._has_embedded = False
        self._handles: list[Any] = []

    @property
    def loss_slot(self) -> int:
        """The slot of the losses."""
        return self.num_slots - 1

    def begin(self, row: str, layout: RowLayout, sample: Sample | None, *, goes_back: bool) -> None:
        """Say which row runs from now on.

        Args:
            row: A name of it.
            layout: Its layout.
            sample: The sample; None on ranks that do not read.
            goes_back: Whether a backward pass follows; gradients are recorded then, not outputs.
        """
        self._row, self._layout, self._sample, self._goes_back = row, layout, sample, goes_back
        self._has_embedded = False

    def watch(self) -> None:
        """Put hooks on the embedding, layers and routers."""
        for chunk in self._model:
            inner = get_attr_wrapped_model(chunk, "decoder", return_model_obj=True)
            embedding = getattr(inner, "embedding", None)
            if embedding is not None and inner.pre_process:
                self._hook(embedding, 0, self._look_at_embedding)
            layers = {int(layer.layer_number): layer for layer in inner.decoder.layers}
            if getattr(inner, "mtp_process", False):
                for layer in inner.mtp.layers:
                    slot = self._num_layers + int(layer.layer_number)
                    layers[slot] = layer.mtp_model_layer
            for slot, layer in layers.items():
                self._describe(layer, slot)
                self._hook(layer, slot, self._look_at_layer)
                if any(isinstance(module, Router) for module in layer.modules()):
                    self._mark(slot, Sign.HAS_EXPERTS)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def keep_losses(self, losses: Tensor) -> None:
        """Record the losses of the row that runs, ``(1, local positions)``."""
        self.losses[self._row] = losses.detach().float().flatten()

    def _hook(self, module: Any, slot: int, look: Callable[[int, Any, Any, Any], None]) -> None:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            look(slot, module, args, kwargs)

        def after(_module: Any, _args: Any, output: Any) -> None:
            self._keep_output(slot, output[0] if isinstance(output, tuple) else output)

        self._handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def _keep_output(self, slot: int, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if slot == 0:
            if self._has_embedded:  # multi-token prediction embeds shifted tokens
                return
            self._has_embedded = True
        key = self._row, slot
        if not self._goes_back:
            self.outputs[key] = summarize(output.detach())
        elif output.requires_grad:  # not so where it will be computed again

            def keep(gradient: Tensor) -> None:
                largest = gradient.detach().abs().flatten(1).amax(1).float()
                self.gradients[key] = largest

            output.register_hook(keep)

    def _look_at_embedding(self, slot: int, _module: Any, args: Any, kwargs: Any) -> None:
        self._mark_stage(slot)
        sample = self._sample
        if self._has_embedded or sample is None or "tokens" not in sample:
            return
        told = {**dict(zip(("input_ids", "position_ids"), args, strict=False)), **kwargs}
        held = self._layout.held()
        for name, own, sign in (
            ("input_ids", "tokens", Sign.OTHER_TOKENS),
            ("position_ids", "position_ids", Sign.OTHER_POSITIONS),
        ):
            found = told.get(name)
            if isinstance(found, Tensor) and not torch.equal(
                found.flatten().cpu(), sample[own][held]
            ):
                self._mark(slot, sign)

    def _look_at_layer(self, slot: int, layer: Any, _args: Any, kwargs: Any) -> None:
        if not _mixes_positions(layer):
            return
        packed = kwargs.get("packed_seq_params")
        found = None if packed is None else packed.cu_seqlens_q
        wrong = None
        if found is None:
            wrong = Sign.NO_BOUNDARIES
        elif (offsets := found.flatten().tolist()) != (expected := self._layout.offsets):
            wrong = Sign.OTHER_BOUNDARIES
            pairs = [(a, b) for a, b in zip(offsets, expected, strict=False) if a != b]
            ends = pairs[0] if pairs else (len(offsets), len(expected))
            self.signs[slot, Sign.FOUND_END] = float(ends[0])
            self.signs[slot, Sign.EXPECTED_END] = float(ends[1])
        if wrong is not None:
            is_new = self._goes_back and not self.signs[slot, wrong]
            self._mark(slot, Sign.LOST_IN_BACKWARD if is_new else wrong)
        if (
            self._needs_segment_index
            and self.signs[slot, Sign.IS_MAMBA]
            and getattr(packed, "seq_idx", None) is None
        ):
            self._mark(slot, Sign.NO_SEGMENT_INDEX)
        if self._takes_angles_of_row(kwargs.get("rotary_pos_emb")):
            self._mark(slot, Sign.ANGLES_OF_ROW)

    def _takes_angles_of_row(self, angles: Any) -> bool:
        """Whether Megatron's rule for unfused rotary embeddings runs positions through the row.

        ``_apply_rotary_pos_emb_thd`` does where the table is as long as the row.
        """
        table = angles[0] if isinstance(angles, tuple) else angles
        if not isinstance(table, Tensor) or self.config.apply_rope_fusion:
            return False
        has_several = sum(length > 0 for length in self._layout.lengths) > 1
        return has_several and table.shape[0] == sum(self._layout.lengths)

    def _describe(self, layer: Any, slot: int) -> None:
        self._mark_stage(slot)
        name = type(getattr(layer, "self_attention", None)).__name__
        if any(hasattr(module, "mixer") for module in layer.modules()):
            self._mark(slot, Sign.IS_MAMBA)
        elif name == "GatedDeltaNet":
            self._mark(slot, Sign.IS_DELTA_NET)

    def _mark_stage(self, slot: int) -> None:
        stage = parallel_state.get_pipeline_model_parallel_rank()
        self.signs[slot, Sign.STAGE] = stage + 1.0

    def _mark(self, slot: int, sign: Sign) -> None:
        self.signs[slot, sign] = 1.0


def _mixes_positions(layer: Any) -> bool:
    """Whether what a layer computes at one position depends on others."""
    attention = getattr(layer, "self_attention", None)
    is_attention = attention is not None and not isinstance(attention, IdentityOp)
    return is_attention or hasattr(layer, "mixer")
