# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.schemas.record_fields import RecordFields
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.schemas.table import SCHEMAS
from tests.conftest import ROOT

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}
PAGE = (ROOT / "docs" / "prepare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_a_schema_is_found_by_its_fields_unless_it_must_be_named(schema):
    fields = RecordFields(dict.fromkeys(schema.needs, "a text"), RecordNames())
    assert schema.matches(fields) is not schema.only_if_named
    named = RecordNames({"mine": schema.needs[0]})
    assert schema.matches(RecordFields(dict.fromkeys(schema.needs, "a text"), named))
    for name in schema.needs:
        others = {other: "a text" for other in schema.needs if other != name}
        assert not schema.matches(RecordFields(others, named))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_other_names_map_to_the_fields_of_every_schema(schema):
    for field in (*schema.needs, *schema.others):
        names = RecordNames({"mine": field})
        assert names.of_record({"mine": "a text"}) == {field: "a text"}


def test_an_error_names_the_fields_of_every_schema_that_is_found_by_them():
    with pytest.raises(RecordError) as caught:
        read_record({"unknown": 1})
    for schema in SCHEMAS.values():
        assert (" with ".join(schema.needs) in str(caught.value)) is not schema.only_if_named


@pytest.mark.parametrize(
    ("record", "options"),
    [
        ({"input": "1+1?", "output": "2"}, ["input=prompt", "output=completion"]),
        ({"question": "1+1?", "reply": "2"}, ["question=prompt", "reply=completion"]),
        ({"prompt": "1+1?", "response": "2"}, ["response=completion"]),
        ({"query": "1+1?", "response": "2"}, ["query=prompt", "response=completion"]),
        ({"Problem": "1+1?", "Solution": "2"}, ["Problem=prompt", "Solution=completion"]),
        ({"data": ["1+1?", "2"]}, ["data=turns"]),
        ({"chat": [ASKED, ANSWERED]}, ["chat=messages"]),
    ],
)
def test_a_record_with_other_fields_is_refused_with_the_option_that_reads_it(record, options):
    with pytest.raises(RecordError, match="its schema is unknown") as caught:
        read_record(record)
    assert str(caught.value).endswith(", add " + " ".join(f"--field {o}" for o in options))
    names = RecordNames(dict(option.split("=") for option in options))
    assert read_record(record, names=names).messages == [ASKED, ANSWERED]
    assert read_record(record, names=names).notes == ()


def test_the_option_is_written_as_a_shell_reads_it():
    with pytest.raises(RecordError, match=r"--field 'my chat=messages'$"):
        read_record({"my chat": [ASKED]})


def test_the_documentation_shows_every_schema():
    rows = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert set(SCHEMAS) <= set(rows)
