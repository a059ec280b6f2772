# SPDX-License-Identifier: Apache-2.0
"""Sets of conversations that were joined in one table, whose rows have each other's fields."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")
pytest.importorskip("datasets")

import datasets

from megatron_packing.tokenize.run import TokenizeOptions, tokenize

TEMPLATE = (
    "{{ tools | tojson }}{% for m in messages %}[INST]{{ m.role }}: {% generation %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}{% endfor %}{% endgeneration %}</s>{% endfor %}"
)


def conversation(name, argument, value):
    function = {"name": name, "arguments": {argument: value}}
    properties = {argument: {"type": "string"}}
    parameters = {"type": "object", "properties": properties}
    return {
        "messages": [
            {"role": "user", "content": "Where?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"type": "function", "function": function}],
            },
        ],
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
    }


ROWS = [conversation("find", "town", "Oslo"), conversation("measure", "unit", "m")]


@pytest.fixture
def tokenized(chitchat, tmp_path):
    """Tokenize a file; its bytes and what was done."""

    def tokenized(path):
        template = tmp_path / "template.jinja"
        template.write_text(TEMPLATE)
        prefix = tmp_path / f"{path.name}_out"
        progress = tokenize(
            TokenizeOptions(
                inputs=[path],
                output_prefix=prefix,
                tokenizer=str(chitchat / "tokenizer"),
                chat_template=template,
            )
        )
        return (
            prefix.with_name(f"{prefix.name}.bin").read_bytes(),
            prefix.with_name(f"{prefix.name}_loss_mask.bin").read_bytes(),
            progress,
        )

    return tokenized


@pytest.fixture
def alone(tokenized, write_jsonl):
    """What the rows are where no row has another's fields."""
    return tokenized(write_jsonl(*ROWS, name="alone.jsonl"))


def test_rows_of_a_json_export_are_what_they_were(tokenized, alone, tmp_path):
    path = tmp_path / "joined.jsonl"
    datasets.Dataset.from_list(ROWS).to_json(path)
    first = json.loads(path.read_text().splitlines()[0])
    assert first["tools"][0]["function"]["parameters"]["properties"]["unit"] is None
    joined = tokenized(path)
    assert joined[:2] == alone[:2]
    assert alone[2].notes == {}
    left_out = "null arguments that the tool does not define, dropped"
    assert joined[2].notes == {
        "null fields of tools that only other rows of a table have, dropped": 2,
        f"{left_out}: unit": 1,
        f"{left_out}: town": 1,
    }


def test_rows_of_a_parquet_file_are_what_they_were(tokenized, alone, tmp_path):
    path = tmp_path / "joined.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    assert tokenized(path)[:2] == alone[:2]


@pytest.mark.parametrize("columns", [("messages",), ("messages", "tools")])
def test_columns_of_json_texts_are_read(tokenized, alone, tmp_path, columns):
    rows = [{**row, **{name: json.dumps(row[name]) for name in columns}} for row in ROWS]
    path = tmp_path / "texts.parquet"
    datasets.Dataset.from_list(rows).to_parquet(path)
    assert tokenized(path)[:2] == alone[:2]


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="this release of datasets has no Json")
@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_columns_of_the_json_type_are_read(tokenized, alone, tmp_path, form):
    json_list = datasets.List(datasets.Json())
    features = datasets.Features({"messages": json_list, "tools": json_list})
    table = datasets.Dataset.from_list(ROWS, features=features)
    path = tmp_path / form
    if form == "saved":
        table.save_to_disk(path)
    else:
        path = path.with_suffix(".parquet")
        table.to_parquet(path)
    assert tokenized(path)[:2] == alone[:2]


def test_a_table_of_two_schemas_is_read_by_the_one_of_each_row(tokenized, tmp_path, write_jsonl):
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    sharegpt = datasets.Dataset.from_list([{"conversations": turns}])
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    openai = datasets.Dataset.from_list([{"messages": messages}])
    path = tmp_path / "two.jsonl"
    datasets.concatenate_datasets([sharegpt, openai]).to_json(path)
    joined = tokenized(path)
    assert joined[2].schemas == {"sharegpt": 1, "openai": 1}
    twice = tokenized(write_jsonl(*[{"messages": messages}] * 2, name="twice.jsonl"))
    assert joined[:2] == twice[:2]
