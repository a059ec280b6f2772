# SPDX-License-Identifier: Apache-2.0
"""The sizes that all rows of a run have in common, whichever documents they hold.

Ranks that read no rows then know how much they receive, attention gets the same arguments in every
step, and a captured CUDA graph could be replayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.layout import Attention


@dataclass(frozen=True, slots=True)
class RowShape:
    """The sizes of what describes the documents of a row."""

    width: int
    """Entries of ``cu_seqlens``."""
    max_seqlen: int
    """No attention span of a row is longer, and no row has this many positions.

    Megatron takes a table of rotary angles that is as long as the row for one whose positions run
    through all documents (``rope_utils.py``, ``_apply_rotary_pos_emb_thd``), and the table is as
    long as this number. So it is one alignment more than the row if a span may fill the row."""

    @classmethod
    def of(cls, indexes: Iterable[PackIndex], attention: Attention = "document") -> RowShape:
        """Return the smallest shape of the rows of some indexes, in any epoch.

        There are entries for the documents of the fullest pack and for a tail that is cut into
        parts no longer than the longest document.

        Args:
            indexes: At least one index. All have rows of one length.
            attention: What documents attend to: see ``layout.place``.
        """
        indexes = list(indexes)
        row = max(index.plan.sequence_length for index in indexes)
        alignments = {index.plan.alignment for index in indexes}
        documents = max(index.figures.max_documents_per_pack for index in indexes)
        longest = row if attention == "pack" else max(index.longest_segment for index in indexes)
        parts = -(-row // longest)
        # The parts of each index's tail are multiples of its own alignment.
        longest = max(-(-longest // alignment) * alignment for alignment in alignments)
        return cls(
            width=documents + 1 + parts,
            max_seqlen=longest if longest < row else row + max(alignments),
        )
