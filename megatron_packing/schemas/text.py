# SPDX-License-Identifier: Apache-2.0
"""Reads records of one text without turns, for pre-training."""

from __future__ import annotations

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.record_fields import RecordFields


def read_text(fields: RecordFields) -> str:
    """Read ``text``.

    Raises:
        RecordError: The field is missing, is not a text, or is empty.
    """
    text = fields.text("text")
    if not text:
        raise RecordError("empty text", "'text' is empty")
    return text
