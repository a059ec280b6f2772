# SPDX-License-Identifier: Apache-2.0
"""What decides a plan, beside the corpus."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields

from megatron_packing.planning.plan import Effort, Overlong, Strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """The options of ``plan_packs``, by the same names, as a pack index keeps them.

    ``megatron-packing pack`` has a flag for each field.
    """

    strategy: Strategy
    """How packs are planned."""
    sequence_length: int
    """Positions in a row."""
    effort: Effort = "default"
    """How long ``optimal`` looks for better packs."""
    alignment: int = 1
    """Each segment takes a multiple of this many positions in its row."""
    max_documents_per_pack: int | None = None
    """At most so many segments in a pack; None: no limit."""
    overlong: Overlong = "error"
    """What happens to documents longer than a row."""
    min_packs: int = 0
    """Packs are divided until there are so many."""
    packs_multiple_of: int = 1
    """Packs are divided until their number is a multiple of this."""
    seed: int = 0
    """Which documents meet in a pack."""

    def command(self, prefixes: str, documents: range | None = None) -> str:
        """The command that makes an index of this plan, for messages.

        Args:
            prefixes: Of the corpora, as ``--data-path`` takes them: separated by commas.
            documents: Only these, as ``--split`` chooses; None: all.
        """
        words = ["megatron-packing", "pack", *prefixes.split(",")]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += [flag_of(field.name), str(value)]
        if documents is not None:
            words += ["--documents", f"{documents.start}:{documents.stop}"]
        return f"{shlex.join(words)} --output DIR"


def flag_of(field: str) -> str:
    """The flag of ``megatron-packing pack`` for a field of the settings."""
    return f"--{field.replace('_', '-')}"
