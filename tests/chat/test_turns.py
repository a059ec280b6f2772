# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from megatron_packing.chat.template import ChatTemplate
from megatron_packing.chat.turns import TurnFinder
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.tokenizers.text_tokenizer import HuggingFaceTokenizer, trained_tokens

# Each template as its model's users have it, the turns' frames without their tools.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{{ ('<|begin_of_text|>' if loop.first else '') + "
    "'<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for message in messages %}{% set role = 'model' if message.role == "
    "'assistant' else message.role %}{{ '<start_of_turn>' + role + '\n' + message.content | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# Drops the thoughts of all answers but the last, as reasoning models' templates do.
FORGETFUL = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + (message.content if "
    "loop.last else message.content.split('</think>')[-1]) + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = CHATML.replace(
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}",
)
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
]
CONVERSATION = {
    "messages": [
        {"role": "system", "content": "You are assistant: brief."},
        {"role": "user", "content": "user, what is 2 + 2?"},
        {"role": "assistant", "content": "4 \N{GRINNING FACE}"},
        {"role": "user", "content": "4 \N{GRINNING FACE}"},
        {"role": "assistant", "content": "user assistant\n\nyes"},
    ]
}


@pytest.fixture(scope="module")
def byte_tokenizer() -> HuggingFaceTokenizer:
    """One token a byte: every boundary falls where the text says, and characters are split."""
    tokenizer = Tokenizer(models.BPE(bytes_as_vocabulary(), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return HuggingFaceTokenizer(tokenizer.to_str())


def bytes_as_vocabulary() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def encode(tokenizer, template, record, loss_on="assistant"):
    finder = TurnFinder(ChatTemplate(template), tokenizer.special, loss_on)
    rendered = finder.render(read_record(record))
    (tokenized,) = tokenizer.tokenize([rendered.text])
    return tokenized.ids, trained_tokens(tokenized, rendered.text, rendered.trained)


def trained_texts(tokenizer, template, record, loss_on="assistant") -> list[str]:
    """What the runs of trained tokens decode to."""
    tokens, mask = encode(tokenizer, template, record, loss_on)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    return [tokenizer.decode(tokens[a:b]) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (MARKED, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (PLAIN, "\n"),
    ],
    ids=["chatml", "generation marks", "llama 3", "gemma", "no special tokens"],
)
def test_trained_are_the_answers_and_their_end_tokens_and_nothing_else(
    byte_tokenizer, template, end
):
    answers = [m["content"] for m in CONVERSATION["messages"] if m["role"] == "assistant"]
    expected = [answer + end for answer in answers]
    assert trained_texts(byte_tokenizer, template, CONVERSATION) == expected


def test_all_tokens_are_the_rendered_conversation(byte_tokenizer):
    tokens, mask = encode(byte_tokenizer, CHATML, CONVERSATION)
    expected = "".join(
        f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
        for message in CONVERSATION["messages"]
    )
    assert byte_tokenizer.decode(tokens) == expected
    assert mask.dtype == np.uint8
    assert len(mask) == len(tokens)


def test_a_conversation_that_starts_with_the_assistant_is_trained(byte_tokenizer):
    record = {
        "messages": [
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "How are you?"},
        ]
    }
    expected = ["Hello!<|im_end|>", "How are you?<|im_end|>"]
    assert trained_texts(byte_tokenizer, CHATML, record) == expected


def test_a_template_that_renders_turns_differently_later_is_refused(byte_tokenizer):
    record = {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "<think>hm</think>4"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "<think>hm</think>Yes"},
        ]
    }
    with pytest.raises(RecordError, match="message 1 differently when more messages follow"):
        trained_texts(byte_tokenizer, FORGETFUL, record)


def test_what_a_template_raises_is_the_reason(byte_tokenizer):
    template = "{{ raise_exception('no system turns here') }}"
    with pytest.raises(RecordError, match="the chat template refuses it: no system turns here"):
        trained_texts(byte_tokenizer, template, CONVERSATION)


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "generation marks"])
class TestWhatIsTrained:
    """The options and the record's own flags, with both ways to find turns."""

    def test_the_last_answer_alone(self, byte_tokenizer, template):
        trained = trained_texts(byte_tokenizer, template, CONVERSATION, "last-assistant")
        assert trained == ["user assistant\n\nyes<|im_end|>"]

    def test_everything(self, byte_tokenizer, template):
        tokens, mask = encode(byte_tokenizer, template, CONVERSATION, "all")
        assert mask.all()
        assert len(mask) == len(tokens)

    @pytest.mark.parametrize("flag", [{"train": False}, {"weight": 0}])
    def test_not_what_its_flag_excludes(self, byte_tokenizer, template, flag):
        messages = [dict(message) for message in CONVERSATION["messages"]]
        messages[2].update(flag)
        record = {"messages": messages}
        expected = ["user assistant\n\nyes<|im_end|>"]
        assert trained_texts(byte_tokenizer, template, record) == expected
        before, after = trained_texts(byte_tokenizer, template, record, "all")
        assert before.endswith("what is 2 + 2?<|im_end|>\n")
        assert after.startswith("<|im_start|>user\n4")
        messages[4].update(flag)
        with pytest.raises(RecordError, match="flags leave no message to train"):
            trained_texts(byte_tokenizer, template, record)

    def test_an_empty_answer_is_refused(self, byte_tokenizer, template):
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": " \n"}]
        with pytest.raises(RecordError, match="assistant message 1 is empty"):
            trained_texts(byte_tokenizer, template, {"messages": messages})

    def test_a_conversation_without_answers_is_refused(self, byte_tokenizer, template):
        record = {"messages": [{"role": "user", "content": "x"}]}
        with pytest.raises(RecordError, match="no assistant message"):
            trained_texts(byte_tokenizer, template, record)


def test_a_token_that_starts_in_the_prompt_is_not_trained(byte_tokenizer):
    (tokenized,) = byte_tokenizer.tokenize(["ab\u00e9cd<|im_end|>x"])
    # a, b, two bytes of one character, c, d, the special token, x
    assert trained_tokens(tokenized, "ab\u00e9cd<|im_end|>x", [(1, 3)]).tolist() == [
        *(0, 1, 1, 1, 0, 0, 0, 0)
    ]
    inside_special = [(4, 8), (15, 16)]
    assert trained_tokens(tokenized, "ab\u00e9cd<|im_end|>x", inside_special).tolist() == [
        *(0, 0, 0, 0, 0, 1, 0, 1)
    ]


def test_a_template_that_hides_part_of_an_answer_is_refused(byte_tokenizer):
    hides = CHATML.replace("message.content", "message.content.split('</think>')[-1]")
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>hm</think>4"},
    ]
    with pytest.raises(RecordError, match="leaves out or changes part of assistant message 1"):
        trained_texts(byte_tokenizer, hides, {"messages": messages})


def test_a_generation_prompt_that_answers_do_not_begin_with_is_refused(byte_tokenizer):
    thinks = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif")
    with pytest.raises(RecordError, match="does not begin message 2 with its generation prompt"):
        trained_texts(byte_tokenizer, thinks, CONVERSATION)


CALL = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "generation marks"])
@pytest.mark.parametrize("said", [{"tool_calls": [CALL]}, {"reasoning_content": "It is a sum."}])
def test_a_template_that_hides_calls_or_thoughts_is_refused(byte_tokenizer, template, said):
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "", **said},
    ]
    with pytest.raises(RecordError, match="leaves out or changes part of assistant message 1"):
        trained_texts(byte_tokenizer, template, {"messages": messages})


def test_marks_that_hold_no_answer_are_refused(byte_tokenizer):
    template = MARKED.replace("{{ message.content + '<|im_end|>' }}", "{{ '<|im_end|>' }}")
    with pytest.raises(RecordError, match="leaves out or changes part of assistant message 2"):
        trained_texts(byte_tokenizer, template, CONVERSATION)


def test_an_end_token_that_marks_leave_out_is_trained(byte_tokenizer):
    template = MARKED.replace(
        "{{ message.content + '<|im_end|>' }}{% endgeneration %}",
        "{{ message.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    expected = ["4 \N{GRINNING FACE}<|im_end|>", "user assistant\n\nyes<|im_end|>"]
    assert trained_texts(byte_tokenizer, template, CONVERSATION) == expected


def test_several_marks_in_a_turn_are_of_that_turn(byte_tokenizer):
    thought = "{% if loop.last %}{% generation %}hm {% endgeneration %}{% endif %}"
    unmarked = MARKED.replace("{% generation %}", thought + "{% generation %}", 1)
    trained = trained_texts(byte_tokenizer, unmarked, CONVERSATION, "last-assistant")
    assert trained == ["hm user assistant\n\nyes<|im_end|>"]


def test_what_a_template_writes_after_a_turn_is_not_trained(byte_tokenizer):
    """An end of the text, as Phi 3's, or the next turn's opening, as Command A's."""
    messages = CONVERSATION["messages"][:3]
    ends = CHATML + "{% if not add_generation_prompt %}{{ '<|eot_id|>' }}{% endif %}"
    opens = CHATML.replace("'<|im_end|>\n'", "'<|im_end|><|im_start|>'")
    for template in (ends, opens):
        trained = trained_texts(byte_tokenizer, template, {"messages": messages})
        assert trained == ["4 \N{GRINNING FACE}<|im_end|>"]


def test_the_end_of_a_turn_with_calls_follows_the_calls(byte_tokenizer):
    template = CHATML.replace(
        "+ '<|im_end|>\n'",
        "+ ('<bos>' + message.tool_calls[0].function.name + '<start_of_turn>\n' "
        "if message.tool_calls else '') + '<|im_end|>\n'",
    )
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    ]
    assert trained_texts(byte_tokenizer, template, {"messages": messages}) == [
        "Let me look.<bos>look_up<start_of_turn>\n<|im_end|>"
    ]


def test_a_first_answer_is_not_looked_for_in_the_templates_own_words(byte_tokenizer):
    template = "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}" + CHATML
    record = {
        "messages": [{"role": "assistant", "content": "You"}, {"role": "user", "content": "Hi"}]
    }
    assert trained_texts(byte_tokenizer, template, record) == ["You<|im_end|>"]
    bare = "{% for message in messages %}{{ message.content + '<|im_end|>' }}{% endfor %}"
    twice = "{{ 'You: ' }}" + bare
    with pytest.raises(RecordError, match="that cannot be located in the rendered text"):
        trained_texts(byte_tokenizer, twice, record)


# Each looks at a message before its turn, so that one rendering does not tell where turns are.
PEEKS = {
    "counts": "{% if messages | length > 1 %}" + CHATML + "{% endif %}",
    "last": CHATML.replace("message.content", "message.content + ('' if loop.last else '')", 1),
    "next": CHATML.replace(
        "message.content", "(message.content if loop.nextitem is defined else message.content)", 1
    ),
    "all": "{% for m in messages if m.role == 'system' %}{% endfor %}" + CHATML,
    "reversed": "{% for message in messages[::-1] %}{% endfor %}" + CHATML,
    "in a macro": "{% macro all() %}" + CHATML + "{% endmacro %}{{ all() }}",
    "printed": "{% set x = messages | string %}" + CHATML,
    "as json": "{% set x = messages | tojson %}" + CHATML,
    "after the first": "{% set rest = messages[1:] %}" + CHATML,
}


@pytest.mark.parametrize("template", PEEKS.values(), ids=PEEKS)
def test_turns_are_found_however_a_template_reads_its_messages(byte_tokenizer, template):
    expected = ["4 \N{GRINNING FACE}<|im_end|>", "user assistant\n\nyes<|im_end|>"]
    assert trained_texts(byte_tokenizer, template, CONVERSATION) == expected


def test_one_rendering_finds_the_turns_that_all_prefixes_find(byte_tokenizer, monkeypatch):
    conversation = read_record(CONVERSATION)
    for template in (CHATML, LLAMA3, GEMMA):
        finder = TurnFinder(ChatTemplate(template), byte_tokenizer.special)
        at_once = finder._prefixes._from_one_rendering(conversation, [2, 4])
        assert at_once is not None
        with monkeypatch.context() as patch:
            patch.setattr(finder._prefixes, "_from_one_rendering", lambda *_: None)
            assert finder.render(conversation) == at_once
