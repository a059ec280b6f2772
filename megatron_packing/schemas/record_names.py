# SPDX-License-Identifier: Apache-2.0
"""Checks the mappings of ``--field`` and ``--role`` against the standard names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.schemas.field_names import IGNORE, MESSAGE_FIELDS, ROLES, FieldNames
from megatron_packing.schemas.table import SCHEMAS
from megatron_packing.schemas.training_marks import MARKS

RECORD_FIELDS = (
    *(name for schema in SCHEMAS.values() for name in (*schema.needs, *schema.others)),
    *("system", "tools", "functions", "chat_template_kwargs", "reasoning_content", *MARKS),
)
"""Standard names of the fields of a record."""


@dataclass(frozen=True, slots=True)
class RecordNames(FieldNames):
    """The standard names of a data set's fields and roles, checked.

    Raises:
        InputError: A mapping names no standard field or role, or its name is not UTF-8.
    """

    def __post_init__(self) -> None:
        standard = tuple(dict.fromkeys([*RECORD_FIELDS, *MESSAGE_FIELDS, IGNORE]))
        for option, given, known in (("field", self.fields, standard), ("role", self.roles, ROLES)):
            for name, meaning in given.items():
                try:
                    name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"--{option} {name!r}={meaning} has a name that is not UTF-8"
                    ) from error
                if meaning not in known:
                    raise InputError(
                        f"--{option} {name}={meaning} names no standard {option}; "
                        f"use one of {', '.join(known)}"
                    )

    def of_record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record's fields under their standard names, without nulls.

        Raises:
            RecordError: Two fields have the same standard name.
        """
        return self._renamed(record, RECORD_FIELDS, "it")

    def mappings(self) -> list[str]:
        """Return all mappings as written on the command line."""
        fields = [f"--field {name}={meaning}" for name, meaning in self.fields.items()]
        return fields + [f"--role {name}={meaning}" for name, meaning in self.roles.items()]
