# SPDX-License-Identifier: Apache-2.0
"""The table of schemas, that is, of the forms that records come in.

To add a schema, write a module with its reading function and add a row here. ``--schema``,
``--field``, errors and ``read_record`` use this table. A record has the first schema in it that it
matches: ``conversations`` looks for it.
"""

from __future__ import annotations

from megatron_packing.schemas.alpaca import read_alpaca
from megatron_packing.schemas.messages import read_openai, read_sharegpt
from megatron_packing.schemas.prompt_completion import read_prompt_completion
from megatron_packing.schemas.refused_records import check_no_tree
from megatron_packing.schemas.schema import Schema
from megatron_packing.schemas.text import read_text
from megatron_packing.schemas.turns import read_turns

_ROWS = (
    Schema("openai", ("messages",), read_openai),
    Schema("sharegpt", ("conversations",), read_sharegpt),
    Schema("alpaca", ("instruction",), read_alpaca, others=("input", "output", "history")),
    Schema("prompt-completion", ("prompt", "completion"), read_prompt_completion),
    Schema("turns", ("turns",), read_turns, only_if_named=True),
    Schema("text", ("text",), read_text, is_text=True, refuse_others=check_no_tree),
)
SCHEMAS = {schema.name: schema for schema in _ROWS}
"""All schemas by their names, in the order in which they are tried."""
RECOGNIZED_BY = tuple(row.needs[0] for row in _ROWS if not row.only_if_named)
"""One field of each schema. An object with one of them is a record, not a list of records."""
