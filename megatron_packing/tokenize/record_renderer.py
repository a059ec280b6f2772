# SPDX-License-Identifier: Apache-2.0
"""Renders records: the text of each, and its trained spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from megatron_packing.chat.template import ChatTemplate, Span
from megatron_packing.chat.turns import TurnFinder
from megatron_packing.errors import InputError
from megatron_packing.records.batches import RecordBatch
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import (
    Conversation,
    PlainText,
    read_with_schema,
)
from megatron_packing.schemas.media_placeholders import placeholder_notes
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.tokenize.answer_ends import AnswerEnds
from megatron_packing.tokenize.encoded_batch import Reject
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenizers.text_tokenizer import TextTokenizer, any_of


@dataclass(frozen=True, slots=True)
class RenderedRecord:
    """The text of a record."""

    number: int
    """Its line, or its number in the file, from 1."""
    schema: str
    text: str
    trained: list[Span]
    """The trained spans, in order."""
    end_token: int | None
    """A token to append to those of the text."""
    writes_special: bool
    """Whether the record's own texts contain the text of a special token."""
    notes: tuple[str, ...] = ()
    """Notes to count; see ``EncodedBatch.notes``."""
    num_unmarked_answers: int = 0
    """Answers that the record marks as untrained."""


class RecordRenderer:
    """A chat template and an end token, ready."""

    def __init__(self, options: EncoderOptions, tokenizer: TextTokenizer) -> None:
        """Compile the template.

        Raises:
            InputError: The template or the end token cannot be used.
        """
        self._options = options
        self._names = RecordNames(options.names.fields, options.names.roles)
        self._tokenizer = tokenizer
        source = options.tokenizer
        special = tokenizer.special | frozenset(source.special_tokens.values()) - {""}
        self._special = any_of(special)
        self._answer_ends = AnswerEnds(
            tokenizer, source.name, special, options.allow_other_template
        )
        self._turns, self._tool_turns = (
            None if template is None else self._turn_finder(template, special)
            for template in (options.chat_template, options.tool_template)
        )
        end_token = options.end_token or source.special_tokens.get("eos_token")
        self._end_token = None if end_token is None else tokenizer.token_of(end_token)
        self._end_text = end_token or ""
        if options.end_token is not None and self._end_token is None:
            raise InputError(
                f"--end-token is {options.end_token!r}, which is not a token of {source.name!r}"
            )

    @property
    def matched_mappings(self) -> frozenset[str]:
        """The mappings of fields and roles that have matched so far."""
        return frozenset(self._names.matched)

    def render(self, batch: RecordBatch, rejects: list[Reject]) -> Iterator[RenderedRecord]:
        """Yield the rendered records of a batch.

        Args:
            batch: The records.
            rejects: Gets the records that cannot be used.

        Raises:
            InputError: A conversation has no template, or a text has no end token.
        """
        for number, read in batch.records():
            try:
                record = read()
                schema, conversation = read_with_schema(record, self._options.schema, self._names)
                yield self._render_one(number, schema, conversation)
            except RecordError as error:
                rejects.append(Reject(number, error.kind, error.reason))
            except RecursionError:
                rejects.append(Reject(number, "nested too deeply", "it is nested too deeply"))

    def _turn_finder(self, template: str, special: frozenset[str]) -> TurnFinder:
        options = self._options
        return TurnFinder(
            ChatTemplate(
                template,
                options.tokenizer.special_tokens,
                options.date,
                options.template_arguments,
                most_characters=4 * options.max_record_bytes,
            ),
            special,
            options.loss_on,
            options.allow_other_template,
        )

    def _render_one(
        self, number: int, schema: str, record: Conversation | PlainText
    ) -> RenderedRecord:
        if isinstance(record, PlainText):
            return self._render_text(number, schema, record)
        if self._turns is None:
            raise InputError(
                f"the tokenizer {self._options.tokenizer.name!r} has no chat template; "
                f"give one with --chat-template FILE"
            )
        turns = self._tool_turns if record.tools and self._tool_turns else self._turns
        self._answer_ends.check_template(turns)
        record = _normalized(record, self._tokenizer.normalize)
        found = turns.render(record)
        self._check_text(found.text)
        notes = (
            *(*record.notes, *found.notes, *self._answer_ends.notes(found)),
            *placeholder_notes(record),
        )
        writes_special = any(
            self._special.search(message["content"] or "") for message in record.messages
        )
        num_unmarked = 0
        if self._options.loss_on != "last-assistant":
            num_unmarked = sum(
                message["role"] == "assistant" and not trained
                for message, trained in zip(record.messages, record.trained, strict=True)
            )
        return RenderedRecord(
            *(number, schema, found.text, found.trained, None, writes_special, notes, num_unmarked)
        )

    def _render_text(self, number: int, schema: str, record: PlainText) -> RenderedRecord:
        if self._end_token is None:
            raise InputError(
                f"the tokenizer {self._options.tokenizer.name!r} names no token that ends a "
                f"text; give one with --end-token"
            )
        text = self._options.tokenizer.text_prefix + self._tokenizer.normalize(record.text)
        self._check_text(text)
        end_token = None if text.endswith(self._end_text) else self._end_token
        writes_special = self._special.search(text) is not None
        whole = [(0, len(text))]
        return RenderedRecord(
            number, schema, text, whole, end_token, writes_special, notes=record.notes
        )

    def _check_text(self, text: str) -> None:
        """Refuse a text that is too long or that no tokenizer can read."""
        limit = self._options.max_record_bytes
        try:
            size = len(text.encode())
            if size > limit:
                raise RecordError(
                    "too long",
                    f"its text has {size:,} bytes, more than --max-record-bytes {limit:,}",
                )
        except UnicodeEncodeError as error:
            raise RecordError(
                "lone surrogate",
                f"it has half a surrogate pair, U+{ord(text[error.start]):04X}, which is not a "
                f"character",
            ) from error


def _normalized(conversation: Conversation, normalize: Callable[[str], str]) -> Conversation:
    """Normalize all texts of a conversation as the tokenizer does, if it does."""
    if normalize("e\u0301") == "e\u0301":
        return conversation
    messages = [_normal_texts(message, normalize) for message in conversation.messages]
    return replace(
        conversation, messages=messages, tools=_normal_texts(conversation.tools, normalize)
    )


def _normal_texts(value: Any, normalize: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else normalize(value)
    if isinstance(value, dict):
        return {
            _normal_texts(key, normalize): _normal_texts(item, normalize)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_normal_texts(item, normalize) for item in value]
    return value
