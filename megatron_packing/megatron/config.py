# SPDX-License-Identifier: Apache-2.0
"""Configuration of the packed dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

from megatron_packing.megatron.opened import OpenedData
from megatron_packing.megatron.versions import warn_if_older_than_tested
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.thd.alignment import segment_alignment
from megatron_packing.thd.layout import (
    ATTENTION,
    POSITION_IDS,
    Attention,
    PositionIds,
    positions_of,
)
from megatron_packing.thd.loss_weights import NORMALISERS, Normaliser
from megatron_packing.thd.row_shape import RowShape


@dataclass
class PackedDatasetConfig(GPTDatasetConfig):
    """Megatron's GPTDatasetConfig plus packing settings.

    Megatron's own ``context_parallel_size`` decides the smallest alignment of segments.
    """

    packing: PlanSettings | None = None
    """Settings of the plan. None: the defaults, with this dataset's ``sequence_length`` and
    ``random_seed`` and the alignment that context parallelism needs. ``min_packs`` and
    ``packs_multiple_of`` apply to training documents only."""
    packing_eval_packs_multiple_of: int = 1
    """``packs_multiple_of`` for validation and test documents: the global batch of an evaluation,
    so that whole batches hold every document once."""
    packing_indexes: tuple[str, ...] = ()
    """Pack indexes made beforehand. Each split uses the one that holds its documents, with that
    index's plan; it is an error if none does. Empty: indexes are made in ``path_to_cache``."""
    packing_build_minutes: float = 10.0
    """Minutes that ranks wait while rank 0 makes no progress."""
    packing_attention: Attention = "document"
    """``document``: a document attends to itself alone. ``pack``: also to those before it."""
    packing_position_ids: PositionIds | None = None
    """``restart``: from 0 in each segment. ``continue``: through the row. None: ``restart`` for
    document attention, ``continue`` for pack attention."""
    packing_normaliser: Normaliser = "token"
    """Unit of equal weight in the loss: ``token``, ``sequence`` (a document) or ``turn``."""
    packing_even_order: EvenSettings | None = None
    """Training reads packs in an order in which ranks have like packs in every micro-batch. None:
    in random order."""
    packing_with_tokens: bool = True
    """False on pipeline stages that need the layout of rows but not their tokens."""
    packing_with_padding_mask: bool = False
    """Whether samples have a padding mask. Routers of experts use it to leave out padding."""
    packing_for_own_step: bool = False
    """Whether ``megatron_packing.megatron.trainer.forward_step`` reads the samples. They are then
    refused by Megatron's own batch code, which does not give every rank ``cu_seqlens``."""
    packing_shape: RowShape | None = None
    """The shape of all rows of the run; None: ``indexes.prepare_indexes`` finds it from the indexes
    of all splits. A loop with several configs gives all of them the same."""
    packing_opened: OpenedData | None = field(default=None, init=False, repr=False, compare=False)
    """What ``indexes.prepare_indexes`` has opened on this rank."""

    def __post_init__(self) -> None:
        super().__post_init__()
        warn_if_older_than_tested()
        if self.packing is None:
            self.packing = PlanSettings(
                sequence_length=self.sequence_length,
                alignment=self.smallest_alignment,
                seed=self.random_seed,
            )
        elif self.packing.sequence_length != self.sequence_length:
            raise ValueError(
                f"packing.sequence_length is {self.packing.sequence_length}, but sequence_length "
                f"is {self.sequence_length}; give the same number"
            )
        if self.packing_position_ids is None:
            self.packing_position_ids = positions_of(self.packing_attention)
        for name, choices in (
            ("packing_attention", ATTENTION),
            ("packing_position_ids", POSITION_IDS),
            ("packing_normaliser", NORMALISERS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}"
                )
        if self.create_attention_mask:
            raise ValueError(
                "create_attention_mask is on, but packed rows use cu_seqlens instead of a mask; "
                "give --no-create-attention-mask-in-dataloader"
            )

    def plan_settings(self, *, training: bool) -> PlanSettings:
        """Settings for training documents, or for validation and test documents."""
        assert self.packing is not None  # see __post_init__
        if training:
            return self.packing
        return replace(
            self.packing, min_packs=0, packs_multiple_of=self.packing_eval_packs_multiple_of
        )

    @property
    def packing_plan(self) -> dict[str, str | int | None]:
        """Plan settings by name, for Megatron's description of a dataset."""
        return asdict(self.plan_settings(training=True))

    @property
    def smallest_alignment(self) -> int:
        """Divisor that the alignment of every pack index must have."""
        return segment_alignment(self.context_parallel_size or 1)
