# SPDX-License-Identifier: Apache-2.0
"""Turns batches of records into tokens and loss masks. One encoder lives in each worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.chat.rendered_conversation import RenderedConversation
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
from megatron_packing.schemas.record_fields import RecordNames
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenizers.source import token_dtype
from megatron_packing.tokenizers.text_tokenizer import (
    TokenizedText,
    any_of,
    split_at_edges,
    trained_tokens,
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was not used."""

    number: int
    """Its line, or which record of its file it is, from 1."""
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The documents of a batch, and the records that became none."""

    tokens: NDArray[Any]
    """Shape ``(lengths.sum(),)``, in the dtype of the corpus."""
    loss_mask: NDArray[np.uint8]
    """Same shape: 1 where the token is trained."""
    lengths: NDArray[np.int32]
    """Shape ``(num_documents,)``."""
    num_trained_tokens: int
    schemas: Counter[str]
    """Documents of each schema."""
    num_with_special_tokens: int
    """Documents whose own texts write special tokens, which become just these."""
    rejects: list[Reject]
    notes: Counter[str] = field(default_factory=Counter)
    """Documents of which each note is true. A note is a phrase, or a phrase, a colon and a detail
    (``record field not read: id``); notes of one phrase are reported together."""
    num_unmarked_answers: int = 0
    """Answers of the documents that their own marks leave untrained."""
    matched_mappings: frozenset[str] = frozenset()
    """The mappings of fields and roles that matched, here or in batches before."""
    first_records: dict[str, int] = field(default_factory=dict)
    """The number of the first document's record of each schema and of each note."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    number: int
    schema: str
    text: str
    trained: list[Span]
    end_token: int | None
    """A token that is added after the text's."""
    writes_special: bool
    notes: tuple[str, ...] = ()
    """What is counted about the record, each note once."""
    num_unmarked_answers: int = 0
    """Answers that their own marks leave untrained."""


class Encoder:
    """A tokenizer and a template, ready."""

    def __init__(self, options: EncoderOptions) -> None:
        """Load the tokenizer and compile the template.

        Raises:
            InputError: One of them cannot be used.
        """
        self._options = options
        self._names = RecordNames(options.names.fields, options.names.roles)
        source = options.tokenizer
        self._tokenizer = source.open()
        self._dtype = token_dtype(self._tokenizer.vocabulary_size)
        special = self._tokenizer.special | frozenset(source.special_tokens.values()) - {""}
        self._special = any_of(special)
        self._ends = tuple(special)
        self._checked: set[TurnFinder] = set()
        self._turns, self._tool_turns = (
            None if template is None else self._turn_finder(template, special)
            for template in (options.chat_template, options.tool_template)
        )
        end_token = options.end_token or source.special_tokens.get("eos_token")
        self._end_token = None if end_token is None else self._tokenizer.token_of(end_token)
        self._end_text = end_token or ""
        if options.end_token is not None and self._end_token is None:
            raise InputError(
                f"--end-token is {options.end_token!r}, which is no token of {source.name!r}"
            )

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

    @property
    def vocabulary_size(self) -> int:
        """The tokenizer's highest token + 1, special tokens included."""
        return self._tokenizer.vocabulary_size

    def encode(self, batch: RecordBatch) -> EncodedBatch:
        """Encode the records of a batch.

        A record becomes one document or one reject. What belongs to the run rather than to the
        record, a template or an end token that is missing, is an error.

        Raises:
            InputError: A conversation came and there is no template, or a text and no end token.
        """
        rejects: list[Reject] = []
        rendered = list(self._render(batch, rejects))
        tokens: list[NDArray[Any]] = []
        masks: list[NDArray[np.uint8]] = []
        schemas: Counter[str] = Counter()
        notes: Counter[str] = Counter()
        num_with_special = num_unmarked = 0
        first_records: dict[str, int] = {}
        for document, tokenized in self._tokenized(rendered, rejects):
            tokenized = split_at_edges(self._tokenizer, tokenized, document.text, document.trained)
            ids = tokenized.ids
            mask = trained_tokens(tokenized, document.text, document.trained)
            if document.end_token is not None:
                ids = np.append(ids, np.int32(document.end_token))
                mask = np.append(mask, np.uint8(1))
            if not mask.any():
                rejects.append(
                    Reject(document.number, "nothing trained", "none of its tokens is trained")
                )
                continue
            tokens.append(ids.astype(self._dtype))
            masks.append(mask)
            schemas[document.schema] += 1
            num_with_special += document.writes_special
            num_unmarked += document.num_unmarked_answers
            notes.update(dict.fromkeys(document.notes, 1))
            for found in (document.schema, *document.notes):
                first_records.setdefault(found, document.number)
        loss_mask = np.concatenate([np.empty(0, np.uint8), *masks])
        return EncodedBatch(
            tokens=np.concatenate([np.empty(0, self._dtype), *tokens]),
            loss_mask=loss_mask,
            lengths=np.asarray([len(ids) for ids in tokens], np.int32),
            num_trained_tokens=int(loss_mask.sum(dtype=np.int64)),
            schemas=schemas,
            num_with_special_tokens=num_with_special,
            rejects=sorted(rejects, key=lambda reject: reject.number),
            notes=notes,
            num_unmarked_answers=num_unmarked,
            matched_mappings=frozenset(self._names.matched),
            first_records=first_records,
        )

    def _render(self, batch: RecordBatch, rejects: list[Reject]) -> Iterator[_Rendered]:
        for number, read in batch.records():
            try:
                record = read()
                options = self._options
                schema, conversation = read_with_schema(record, options.schema, self._names)
                yield self._render_one(number, schema, conversation)
            except RecordError as error:
                rejects.append(Reject(number, error.kind, error.reason))
            except RecursionError:
                rejects.append(Reject(number, "nested too deeply", "it is nested too deeply"))

    def _render_one(self, number: int, schema: str, record: Conversation | PlainText) -> _Rendered:
        normalize = self._tokenizer.normalize
        if isinstance(record, PlainText):
            if self._end_token is None:
                raise InputError(
                    f"the tokenizer {self._options.tokenizer.name!r} names no token that ends a "
                    f"text; give one with --end-token"
                )
            text = self._options.tokenizer.text_prefix + normalize(record.text)
            self._check_text(text)
            ended = text.endswith(self._end_text)
            end_token = None if ended else self._end_token
            writes_special = self._special.search(text) is not None
            whole = [(0, len(text))]
            return _Rendered(
                number, schema, text, whole, end_token, writes_special, notes=record.notes
            )
        if self._turns is None:
            raise InputError(
                f"the tokenizer {self._options.tokenizer.name!r} has no chat template; "
                f"give one with --chat-template FILE"
            )
        turns = self._tool_turns if record.tools and self._tool_turns else self._turns
        self._check_template_ends_answers(turns)
        record = _normalized(record, normalize)
        found = turns.render(record)
        self._check_text(found.text)
        notes = record.notes + found.notes + self._ends_noted(found) + placeholder_notes(record)
        writes_special = any(
            self._special.search(message["content"] or "") for message in record.messages
        )
        num_unmarked = 0
        if self._options.loss_on != "last-assistant":
            num_unmarked = sum(
                message["role"] == "assistant" and not trained
                for message, trained in zip(record.messages, record.trained, strict=True)
            )
        return _Rendered(
            *(number, schema, found.text, found.trained, None, writes_special, notes, num_unmarked)
        )

    def _check_template_ends_answers(self, turns: TurnFinder) -> None:
        """Refuse, once, a template whose answers do not end as the tokenizer's model ends them."""
        if turns in self._checked or self._options.allow_other_template:
            return
        self._checked.add(turns)
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
        try:
            found = turns.render(Conversation(messages, (True, True)))
        except RecordError:
            return  # each record is looked at too
        for _, end in found.ends:
            if not self._is_ended(found.text[:end]):
                written = found.text[found.text.rfind("Hello.", 0, end) + len("Hello.") : end]
                raise InputError(
                    f"the chat template ends an answer {self._ordinary(written)}, so that a model "
                    f"would not learn to stop; give the template of this tokenizer's model with "
                    f"--chat-template, or go on with --allow-other-template"
                )

    def _ends_noted(self, found: RenderedConversation) -> tuple[str, ...]:
        for turn, end in found.ends:
            if self._is_ended(found.text[:end]):
                continue
            if self._options.allow_other_template:
                return ("answers that no special token ends",)
            raise RecordError(
                "no end token",
                f"the chat template writes no special token of the tokenizer at the end of "
                f"assistant message {turn}, so that a model would not learn to stop there; use "
                f"another template, or go on with --allow-other-template",
            )
        return ()

    def _is_ended(self, text: str) -> bool:
        return text.rstrip().endswith(self._ends)

    def _ordinary(self, written: str) -> str:
        """What ends an answer, in words."""
        if not written.strip():
            return "with no token of its own"
        (tokens,) = self._tokenizer.tokenize([written])
        pieces = [self._tokenizer.decode([token]) for token in tokens.ids.tolist()]
        return (
            f"with {written!r}, which is no special token of the tokenizer "
            f"{self._options.tokenizer.name!r} but {_counted(len(pieces), 'ordinary token')} "
            f"({', '.join(map(repr, pieces))})"
        )

    def _check_text(self, text: str) -> None:
        """Refuse what no tokenizer can read."""
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
                f"it has half a surrogate pair, U+{ord(text[error.start]):04X}, which is no "
                f"character",
            ) from error

    def _tokenized(
        self, rendered: list[_Rendered], rejects: list[Reject]
    ) -> Iterator[tuple[_Rendered, TokenizedText]]:
        try:
            tokenized = self._tokenize([document.text for document in rendered])
        except RecordError:  # one of the texts is too much for the library: find out which
            for document in rendered:
                try:
                    (alone,) = self._tokenize([document.text])
                except RecordError as error:
                    rejects.append(Reject(document.number, error.kind, error.reason))
                else:
                    yield document, alone
            return
        yield from zip(rendered, tokenized, strict=True)

    def _tokenize(self, texts: list[str]) -> list[TokenizedText]:
        try:
            return self._tokenizer.tokenize(texts)
        except BaseException as error:
            # What Rust calls a panic is no Exception in Python.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise RecordError("tokenizer", f"the tokenizer refuses it: {error}") from error
            raise


def _normalized(conversation: Conversation, normalize: Callable[[str], str]) -> Conversation:
    """Bring all texts of a conversation into the tokenizer's normal form, if it has one."""
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


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
