# SPDX-License-Identifier: Apache-2.0
"""Describes a schema: the fields of its records, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megatron_packing.schemas.messages import ReadMessages
from megatron_packing.schemas.record_fields import RecordFields


@dataclass(frozen=True, slots=True)
class Schema:
    """One form that records come in."""

    name: str
    """The value of ``--schema``."""
    needs: tuple[str, ...]
    """Fields that every record of this schema has. A record is found by them."""
    read: Callable[[RecordFields], ReadMessages | str]
    """Reads a record into messages, or into one text without turns. Raises RecordError."""
    others: tuple[str, ...] = ()
    """Further fields that ``--field`` can map to."""
    only_if_named: bool = False
    """Not found by its fields alone: ``--schema`` or ``--field`` must name it."""
    is_text: bool = False
    """Whether records are texts without turns: no answers, system message or tools."""
    refuse_others: Callable[[RecordFields], None] | None = None
    """Refuses records that have these fields but are something else, unless ``--schema`` is
    given. Raises RecordError."""

    def matches(self, fields: RecordFields) -> bool:
        """Whether a record is of this schema, by its fields."""
        if not all(name in fields for name in self.needs):
            return False
        mapped = fields.names.fields.values()
        return not self.only_if_named or any(name in mapped for name in self.needs)
