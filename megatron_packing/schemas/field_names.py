# SPDX-License-Identifier: Apache-2.0
"""Maps the field and role names that a data set uses to the standard names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_packing.records.record import RecordError, shown
from megatron_packing.schemas.training_marks import MARKS

IGNORE = "ignore"
"""The standard name of a field that is not read."""
MESSAGE_FIELDS = (
    *("role", "content", "from", "value", "name", "tool_calls", "tool_call_id"),
    *("reasoning_content", *MARKS),
)
"""Standard names of the fields of a message."""
ROLES = ("system", "developer", "user", "assistant", "tool", "function_call")
"""Standard roles. ``function_call`` holds an assistant's tool calls, as JSON text."""


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The standard names of a data set's fields and roles."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """Maps a field's name to a standard name or to ``ignore``."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Maps a role's name to one of ``ROLES``."""
    matched: set[str] = field(default_factory=set, compare=False)
    """Mappings that matched a field or a role so far, as written on the command line."""

    def of_message(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a message's fields under their standard names, without nulls.

        Args:
            message: The fields.
            where: Names the message in errors, such as ``messages[0]``.

        Raises:
            RecordError: Two fields have the same standard name.
        """
        return self._renamed(message, MESSAGE_FIELDS, where)

    def role(self, name: str) -> str:
        """Return the standard role for a name, or the name itself if it is not mapped."""
        meaning = self.roles.get(name)
        if meaning is None:
            return name
        self.matched.add(f"--role {name}={meaning}")
        return meaning

    def _renamed(
        self, values: Mapping[str, Any], standard: tuple[str, ...], where: str
    ) -> dict[str, Any]:
        if not self.fields:
            return {name: value for name, value in values.items() if value is not None}
        renamed: dict[str, Any] = {}
        for name, value in values.items():
            meaning = self.fields.get(name, name)
            if name in self.fields and (meaning == IGNORE or meaning in standard):
                self.matched.add(f"--field {name}={meaning}")
            if value is None or meaning == IGNORE:
                continue
            if meaning not in standard:  # a mapping for records does not apply to messages
                meaning = name
            if meaning in renamed:
                raise RecordError(
                    "field given twice",
                    f"{where} has two fields that --field maps to '{meaning}', one of them "
                    f"'{shown(name)}'",
                )
            renamed[meaning] = value
        return renamed
