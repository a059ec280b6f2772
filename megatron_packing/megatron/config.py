# SPDX-License-Identifier: Apache-2.0
"""How a Megatron dataset's corpora are packed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

from megatron_packing.megatron.versions import warn_if_older_than_tested
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.alignment import segment_alignment
from megatron_packing.thd.layout import (
    ATTENTION,
    POSITION_IDS,
    Attention,
    PositionIds,
    positions_of,
)
from megatron_packing.thd.loss_weights import NORMALISERS, Normaliser


@dataclass
class PackedDatasetConfig(GPTDatasetConfig):
    """GPTDatasetConfig and how its corpora are packed.

    Of Megatron's own fields ``context_parallel_size`` matters: segments must be cut for it.
    """

    packing: PlanSettings | None = None
    """How packs are planned. None: by the defaults, with this dataset's ``sequence_length`` and
    ``random_seed`` and the alignment that context parallelism needs. ``min_packs`` and
    ``packs_multiple_of`` hold for training documents alone."""
    packing_eval_packs_multiple_of: int = 1
    """``packs_multiple_of`` for validation and test documents: the global batch of an evaluation,
    so that whole batches hold every document once."""
    packing_indexes: tuple[str, ...] = ()
    """Pack indexes made beforehand. Where one holds the documents of a split it is used, plan and
    all; where none does, that is an error. Empty: indexes are made in ``path_to_cache``."""
    packing_build_minutes: float = 60.0
    """How long ranks wait for the first to make an index."""
    packing_attention: Attention = "document"
    """``document``: documents see themselves alone; ``pack``: and those before them in the row."""
    packing_position_ids: PositionIds | None = None
    """``restart``: from 0 in each segment; ``continue``: through the row. None: as attention."""
    packing_normaliser: Normaliser = "token"
    """What weighs the same in the loss: each ``token``, ``sequence`` or ``turn``."""
    packing_with_tokens: bool = True
    """False on pipeline stages that need to know where documents are, but not what they say."""
    packing_with_padding_mask: bool = False
    """For mixtures of experts, whose routers must not count padding."""
    packing_for_own_step: bool = False
    """Rows are for ``megatron_packing.megatron.trainer.forward_step``: Megatron's own batch path
    refuses them, as it would not hand ``cu_seqlens`` to every rank."""

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
                "create_attention_mask is on, but cu_seqlens take the mask's place; "
                "give --no-create-attention-mask-in-dataloader"
            )

    def plan_settings(self, *, training: bool) -> PlanSettings:
        """The plan of training documents, or that of validation and test documents."""
        assert self.packing is not None  # see __post_init__
        if training:
            return self.packing
        return replace(
            self.packing, min_packs=0, packs_multiple_of=self.packing_eval_packs_multiple_of
        )

    @property
    def packing_plan(self) -> dict[str, str | int | None]:
        """The settings of the plan by name, for Megatron's description of a dataset."""
        return asdict(self.plan_settings(training=True))

    @property
    def smallest_alignment(self) -> int:
        """What every pack index must be aligned to."""
        return segment_alignment(self.context_parallel_size or 1)
