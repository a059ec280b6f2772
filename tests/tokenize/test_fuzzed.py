# SPDX-License-Identifier: Apache-2.0
"""Mutated records never stop a run, and none of them is lost."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from megatron_packing import Corpus
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, read_record
from megatron_packing.schemas.message_content import THOUGHTS
from megatron_packing.schemas.messages import OPENAI_ROLES
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.schemas.table import SCHEMAS
from megatron_packing.schemas.training_marks import MARKS
from megatron_packing.tokenize.run import TokenizeOptions, tokenize

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer", "default": None}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
SEEDS: list[Any] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Why? \u4f60\u597d"}]},
            {"role": "assistant", "content": "Because.", "weight": 1},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "2", "tool_call_id": "a"},
            {"role": "assistant", "content": "Yes \U0001f600", "train": True},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"]]},
    {"prompt": "Why?", "completion": "Because."},
    {"text": "Once upon a time"},
    {
        "messages": [
            {"role": "developer", "content": ["Be ", {"text": "brief."}], "tools": "[]"},
            {"role": "user", "content": [{"type": "input_text", "text": "Why?", "image": None}]},
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "f", "content": "2"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, "So."]},
            {"role": "user", "content": "Sure?", "id": 3, "loss_mask": 0},
            {"role": "assistant", "content": "Yes.", "reasoning": "Easy.", "masked": False},
        ],
        "functions": [TOOL["function"]],
        "chat_template_kwargs": {"enable_thinking": False},
        "images": [],
        "label": True,
    },
    {
        "messages": json.dumps([{"role": "user", "content": "Hi"}]),
        "conversations": None,
        "tools": [json.dumps(TOOL)],
    },
    {
        "conversations": [
            {"from": "human", "value": "Hi", "role": None, "loss": None},
            {"from": "function_call", "value": '[{"name": "f", "arguments": {"x": null}}]'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Ho", "train": 1},
        ],
        "system": "Be brief.",
        "tools": {"f": {"parameters": {"properties": {"x": {"type": "integer"}, "y": None}}}},
        "kto_tag": True,
    },
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Ho", "reasoning_content": "."},
    {"question": "Why?", "answer": "Because.", "weight": 1.0},
    {"turns": ["Hi", "Ho"], "mask": "User"},
    {"message_id": "m", "parent_id": None, "text": "Why?", "role": "prompter"},
    {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
]
FIELDS = [
    *("text", "messages", "weight", "role", "content", "from", "value", "loss_mask", "masked"),
    *("mask", "label", "kto_tag", "images", "tools", "functions", "tool_calls", "function_call"),
    *("arguments", "parameters", "function", "name", "thinking", "reasoning_content", "system"),
    *("chat_template_kwargs", "enable_thinking", "turns", "prompt", "completion", "chosen"),
    *("rejected", "question", "sender", "type", "image", "properties", "history"),
]
NAMES = RecordNames(
    {"question": "prompt", "answer": "completion", "sender": "role", "extra": "ignore"},
    {"bing": "assistant", "[/b]": "user"},
)
VALUES: list[Any] = [
    *(None, True, 0, -1, 1e308, 10**30, "", " ", "x" * 3000, "\ud800", "\x00", "<|im_end|>"),
    *([], {}, [[]], [None], {"": {}}, {"role": "assistant"}, "assistant", "\ufdd0", "{{ x }}"),
    *(False, 1, 0.0, 0.5, float("nan"), "null", "[]", "{", "[{", '[{"role": "user"}]', "bing"),
    *("function_call", '{"name": "f"}', [{"type": "image"}], [{"name": "f"}], {"x": None}),
    *("[" * 3000, "[1" * 1500, "\x1b[2J\n", "\u2028", ["a", "b"], [["a", "b"]]),
]


def mutate_value(value: Any, chance: random.Random) -> Any:
    """Change one place of a value, wherever in it."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        changed: Any = value.copy()
        act = chance.random()
        if act < 0.15:
            del changed[key]
        elif act < 0.25 and isinstance(changed, list):
            changed.insert(key, chance.choice([*VALUES, changed[key]]))
        elif act < 0.3 and isinstance(changed, dict):
            changed[_field(chance)] = changed.pop(key)
        elif act < 0.4 and isinstance(changed, dict):
            changed[_field(chance)] = chance.choice(VALUES)
        elif act < 0.45:
            changed[key] = json.dumps(changed[key])
        else:
            changed[key] = mutate_value(changed[key], chance)
        return changed
    return chance.choice(VALUES)


def _field(chance: random.Random) -> str:
    return str(chance.choice(FIELDS if chance.random() < 0.8 else VALUES))


def mutate_bytes(line: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat or insert a few bytes."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(line) + 1)
        act = chance.randrange(4)
        if act == 0 and place < len(line):
            line = (
                line[:place] + bytes([line[place] ^ (1 << chance.randrange(8))]) + line[place + 1 :]
            )
        elif act == 1:
            line = line[:place] + line[place + chance.randint(1, 9) :]
        elif act == 2:
            line = line[:place] + line[max(0, place - 9) :]
        else:
            inserted = chance.choice(
                [b"\xff", b"\n", b"\\ud83d", b"[" * 2000, b"\x00", b'"', b"\r"]
            )
            line = line[:place] + inserted + line[place:]
    return line


def write_mutants(path: Path, chance: random.Random, count: int) -> tuple[int, int]:
    """Write mutated records and, among them, whole ones. Returns how many lines, how many whole."""
    # The first line tells what kind of file it is.
    lines = [json.dumps({"prompt": "whole", "completion": "whole 1"}).encode()]
    num_whole = 1
    for _ in range(count):
        record = chance.choice(SEEDS)
        if chance.random() < 0.05:
            num_whole += 1
            lines.append(
                json.dumps({"prompt": "whole", "completion": f"whole {num_whole}"}).encode()
            )
            continue
        for _ in range(chance.choice([0, 1, 1, 2, 5])):
            record = mutate_value(record, chance)
        line = json.dumps(record, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
        lines.append(mutate_bytes(line, chance) if chance.random() < 0.4 else line)
    content = b"\n".join(lines)
    path.write_bytes(content)
    return sum(1 for line in content.split(b"\n") if line.strip()), num_whole


def is_a_sentence(text: str) -> bool:
    return bool(text.strip()) and len(text.splitlines()) == 1


def check_reading(seed: int, count: int) -> Counter[str]:
    """Mutated records are read to something whole or refused in a sentence. Counts which."""
    chance = random.Random(seed)
    results: Counter[str] = Counter()
    for _ in range(count):
        record = chance.choice(SEEDS)
        for _ in range(chance.choice([0, 1, 1, 2, 3, 6])):
            record = mutate_value(record, chance)
        schema = chance.choice([None, None, None, *SCHEMAS])
        names = chance.choice([NAMES, RecordNames()])
        before = json.dumps(record)
        try:
            read = read_record(record, schema, names)
        except RecordError as error:
            read, refusal = None, error
        assert json.dumps(record) == before, "the record was changed"
        if read is None:
            assert is_a_sentence(refusal.reason), refusal
            assert is_a_sentence(refusal.kind), refusal
            results["refused"] += 1
            continue
        results[type(read).__name__] += 1
        assert all(map(is_a_sentence, read.notes)), read.notes
        if isinstance(read, Conversation):
            check_conversation(read)
    return results


def check_conversation(read: Conversation) -> None:
    """What every conversation must be, whatever it was read from."""
    assert len(read.messages) == len(read.trained)
    assert read.messages
    for message in read.messages:
        assert message["role"] in OPENAI_ROLES
        if message["content"] is not None or not message.get("tool_calls"):
            assert isinstance(message["content"], str)
        assert not {*MARKS, "function_call", "mask"} & message.keys()
        assert None not in (value for name, value in message.items() if name != "content")
        assert all(isinstance(message.get(name, ""), str) for name in THOUGHTS)
        for call in message.get("tool_calls", ()):
            assert isinstance(call["function"]["name"], str)
            assert isinstance(call["function"]["arguments"], dict)
    assert read.tools is None or (read.tools and all(isinstance(t, dict) for t in read.tools))
    assert all(isinstance(name, str) for name in read.template_arguments)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory) -> Path:
    alphabet = {symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    return path


def check_mutants(tokenizer_file: Path, seed: int, count: int) -> int:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_lines, num_whole = write_mutants(folder / "input.jsonl", chance, count)
        template = folder / "chatml.jinja"
        template.write_text(CHATML)
        progress = tokenize(
            TokenizeOptions(
                inputs=[folder / "input.jsonl"],
                output_prefix=folder / "out",
                tokenizer=str(tokenizer_file),
                chat_template=template,
                names=NAMES,
                end_token="<|im_end|>",
                on_bad_record="skip",
                max_record_bytes=5000,
            )
        )
        assert progress.num_records == num_lines
        assert progress.num_documents + progress.num_rejects == num_lines
        assert all(0 < count <= progress.num_documents for count in progress.notes.values())
        corpus = Corpus(folder / "out")
        assert len(corpus) == progress.num_documents
        rejects = (folder / "out_rejects.jsonl").read_text(encoding="utf-8").splitlines()
        numbers = [json.loads(line)["line"] for line in rejects]
        assert all(is_a_sentence(json.loads(line)["reason"]) for line in rejects)
        assert len(set(numbers)) == len(numbers) == progress.num_rejects
        whole = 0
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        for document in range(len(corpus)):
            tokens, mask = corpus.tokens(document), corpus.loss_mask(document)
            text = tokenizer.decode(tokens[np.asarray(mask, bool)], skip_special_tokens=False)
            whole += text == f"whole {whole + 1}<|im_end|>"
        assert whole == num_whole
    return num_lines


def test_500_mutated_records_are_documents_or_rejects(tokenizer_file):
    assert check_mutants(tokenizer_file, 1, 500) > 400


def test_5_000_mutated_records_are_read_whole_or_refused_in_a_sentence():
    results = check_reading(1, 5_000)
    assert min(results[kind] for kind in ("refused", "Conversation", "PlainText")) > 50


@pytest.mark.slow
def test_200_000_mutated_records_are_read_whole_or_refused_in_a_sentence():
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**63))
    def check(seed):
        check_reading(seed, 2_000)

    check()


@pytest.mark.slow
def test_40_000_mutated_records_are_documents_or_rejects(tokenizer_file):
    total = 0

    @settings(
        max_examples=80,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**63))
    def check(seed):
        nonlocal total
        total += check_mutants(tokenizer_file, seed, 520)

    check()
    assert total >= 40_000
