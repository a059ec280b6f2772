# SPDX-License-Identifier: Apache-2.0
"""How a Megatron dataset's corpora are packed."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

from megatron_packing.megatron.versions import warn_if_older_than_tested
from megatron_packing.planning.plan import (
    EFFORTS,
    OVERLONG,
    STRATEGIES,
    Effort,
    Overlong,
    Strategy,
)
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

    packing_strategy: Strategy = "optimal"
    """How packs are planned."""
    packing_effort: Effort = "default"
    """How long ``optimal`` looks for better packs."""
    packing_overlong: Overlong = "error"
    """What happens to documents longer than a row."""
    packing_min_packs: int = 0
    """Training packs are divided until there are so many."""
    packing_max_documents_per_pack: int | None = None
    """At most so many documents in a row."""
    packing_packs_multiple_of: int = 1
    """Training packs are divided until their number is a multiple of this."""
    packing_eval_packs_multiple_of: int = 1
    """The same for validation and test packs: of the global batch of an evaluation, so that whole
    batches hold every document once."""
    packing_alignment: int | None = None
    """Segments take a multiple of this in their row. None: what context parallelism asks for."""
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
        if self.packing_position_ids is None:
            self.packing_position_ids = positions_of(self.packing_attention)
        for name, choices in (
            ("packing_strategy", STRATEGIES),
            ("packing_effort", EFFORTS),
            ("packing_overlong", OVERLONG),
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

    @property
    def smallest_alignment(self) -> int:
        """What every pack index must be aligned to."""
        return segment_alignment(self.context_parallel_size or 1)
