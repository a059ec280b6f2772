from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_packing.corpus.chat_template import ChatTemplate, tokens_inside
from megatron_packing.corpus.conversations import RecordError, read_conversation
from megatron_packing.corpus.tokenizer import load_chat_template, load_tokenizer

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
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: every boundary falls where the text says, and characters are split."""
    tokenizer = Tokenizer(models.BPE(bytes_as_vocabulary(), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def bytes_as_vocabulary() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def trained_texts(tokenizer, template, record) -> list[str]:
    """What the runs of trained tokens decode to."""
    tokens, mask = ChatTemplate(tokenizer, template).encode(read_conversation(record))
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
    tokens, mask = ChatTemplate(byte_tokenizer, CHATML).encode(read_conversation(CONVERSATION))
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
    with pytest.raises(RecordError, match="message 1 differently when more follows"):
        trained_texts(byte_tokenizer, FORGETFUL, record)


def test_what_a_template_raises_is_the_reason(byte_tokenizer):
    template = "{{ raise_exception('no system turns here') }}"
    with pytest.raises(RecordError, match="the chat template refuses it: no system turns here"):
        trained_texts(byte_tokenizer, template, CONVERSATION)


def test_empty_answers_leave_nothing_to_train(byte_tokenizer):
    record = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(RecordError, match="nothing would be trained"):
        trained_texts(byte_tokenizer, template, record)


def test_a_token_that_starts_in_the_prompt_is_not_trained():
    offsets = np.array([[0, 2], [2, 5], [5, 5], [5, 8], [8, 9]])
    assert tokens_inside(offsets, [(4, 8)]).tolist() == [0, 0, 0, 1, 0]
    assert tokens_inside(offsets, [(0, 2), (8, 9)]).tolist() == [1, 0, 0, 0, 1]


def test_every_real_conversation_trains_its_answers_exactly(chitchat):
    """On all 4,008: decoded, the trained tokens are each answer and the end-of-turn token."""
    tokenizer = load_tokenizer(str(chitchat / "tokenizer"))
    template = load_chat_template(str(chitchat / "tokenizer"), None)
    with (chitchat / "conversations.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            tokens, mask = template.encode(read_conversation(record))
            trained = tokenizer.decode(tokens[mask == 1])
            answers = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
            assert trained == "".join(f" {answer.rstrip(' ')}</s>" for answer in answers)


def test_real_conversations_have_the_tokens_of_mistrals_own_tokenizer(chitchat):
    mistral = pytest.importorskip("mistral_common.tokens.tokenizers.mistral")
    from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
    from mistral_common.tokens.tokenizers.base import InstructRequest

    encode = mistral.MistralTokenizer.v3().instruct_tokenizer.encode_instruct
    template = load_chat_template(str(chitchat / "tokenizer"), None)
    kinds = {"user": UserMessage, "assistant": AssistantMessage}
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:1000]:
        messages = json.loads(line)["messages"]
        messages = messages[: len(messages) // 2 * 2]
        request = InstructRequest(
            messages=[kinds[m["role"]](content=m["content"]) for m in messages]
        )
        tokens, _ = template.encode(read_conversation({"messages": messages}))
        assert tokens.tolist() == encode(request).tokens
