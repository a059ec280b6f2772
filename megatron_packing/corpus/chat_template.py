"""Renders conversations through a chat template and finds what of them is trained.

Trained is what the model itself would have written: the text of each assistant turn and the token
that ends it. Where the template marks that with ``{% generation %}``, the marks are used. Elsewhere
the turn is what stands between the rendering of the conversation before it, with the generation
prompt, and the rendering that ends with it, less the white space after its last special token
(ChatML's line break after ``<|im_end|>`` is written by the template, not by the model).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.conversations import Conversation, RecordError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """A tokenizer and the chat template that its conversations are rendered with."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self._has_marks = _GENERATION_MARK.search(template) is not None
        special = {*tokenizer.all_special_tokens}
        special |= {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, conversation: Conversation) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Tokens of a conversation and, for each, 1 where it is trained; both ``(num_tokens,)``.

        Raises:
            RecordError: The template refuses the conversation, or the turns cannot be found in it.
        """
        text, spans = self._render_with_spans(conversation)
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        tokens = np.asarray(encoding["input_ids"], np.int64)
        offsets = np.asarray(encoding["offset_mapping"], np.int64).reshape(-1, 2)
        mask = tokens_inside(offsets, spans)
        if not mask.any():
            raise RecordError("its assistant messages are empty, so nothing would be trained")
        return tokens, mask

    def _render_with_spans(self, conversation: Conversation) -> tuple[str, list[Span]]:
        try:
            if self._has_marks:
                return self._render_marked(conversation)
            return self._find_turns(conversation)
        except RecordError:
            raise
        except Exception as error:  # whatever a template raises is a reason to refuse the record
            raise RecordError(f"the chat template refuses it: {error}") from error

    def _render(self, conversation: Conversation, num_messages: int, prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            conversation.messages[:num_messages],
            tools=conversation.tools,
            chat_template=self._template,
            add_generation_prompt=prompt,
            tokenize=False,
        )
        return str(text)

    def _render_marked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered, generated = render_jinja_template(
            conversations=[conversation.messages],
            tools=conversation.tools,
            chat_template=self._template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **self.tokenizer.special_tokens_map,
        )
        return rendered[0], [(start, stop) for start, stop in generated[0]]

    def _find_turns(self, conversation: Conversation) -> tuple[str, list[Span]]:
        text = self._render(conversation, len(conversation.messages), prompt=False)
        spans: list[Span] = []
        for number, message in enumerate(conversation.messages):
            if message["role"] != "assistant":
                continue
            before = self._render(conversation, number, prompt=True) if number else ""
            after = self._render(conversation, number + 1, prompt=False)
            if number == 0:
                before = self._opening(after, message)
            if not (text.startswith(after) and after.startswith(before)):
                raise RecordError(
                    f"the chat template renders message {number} differently when more follows, so "
                    f"its place cannot be known; use a template with {{% generation %}} marks"
                )
            spans.append((len(before), self._end_of_turn(text, len(before), len(after))))
        return text, spans

    def _opening(self, rendered: str, message: dict[str, Any]) -> str:
        """What stands before the text of a conversation's first message.

        Few templates render a generation prompt alone, so the text itself is looked for.
        """
        start = rendered.find(message["content"].strip())
        if start < 0 or not message["content"].strip():
            raise RecordError(
                "it starts with an assistant message that cannot be found in its rendering"
            )
        return rendered[:start]

    def _end_of_turn(self, text: str, start: int, stop: int) -> int:
        end = stop
        for special in self._special.finditer(text, start, stop):
            end = special.end()
        return end if not text[end:stop].strip() else stop


def tokens_inside(offsets: NDArray[np.int64], spans: Iterable[Span]) -> NDArray[np.uint8]:
    """Mark the tokens whose characters lie inside a span.

    A token that starts before a span is not marked: the prompt would have ended inside it.

    Args:
        offsets: Shape ``(num_tokens, 2)``: first and last character of each token, end excluded.
        spans: Ranges of characters.
    """
    mask = np.zeros(len(offsets), np.uint8)
    starts, ends = offsets[:, 0], offsets[:, 1]
    for start, stop in spans:
        mask |= (starts >= start) & (ends <= stop) & (ends > starts)
    return mask
