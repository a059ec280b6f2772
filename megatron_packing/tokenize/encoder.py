# SPDX-License-Identifier: Apache-2.0
"""Encodes batches of records as tokens and loss masks. Each worker has one encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.records.batches import RecordBatch
from megatron_packing.records.record import RecordError
from megatron_packing.tokenize.encoded_batch import EncodedBatch, Reject
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenize.record_renderer import RecordRenderer, RenderedRecord
from megatron_packing.tokenizers.source import token_dtype
from megatron_packing.tokenizers.text_tokenizer import (
    TokenizedText,
    split_at_edges,
    trained_tokens,
)


class Encoder:
    """A tokenizer and a template, ready."""

    def __init__(self, options: EncoderOptions) -> None:
        """Load the tokenizer and compile the template.

        Raises:
            InputError: The tokenizer, the template or the end token cannot be used.
        """
        self._tokenizer = options.tokenizer.open()
        self._dtype = token_dtype(self._tokenizer.vocabulary_size)
        self._renderer = RecordRenderer(options, self._tokenizer)

    @property
    def vocabulary_size(self) -> int:
        """The tokenizer's highest token + 1, special tokens included."""
        return self._tokenizer.vocabulary_size

    def encode(self, batch: RecordBatch) -> EncodedBatch:
        """Encode the records of a batch.

        Each record becomes one document or one reject. A missing template or end token is an error,
        because it concerns the run and not the record.

        Raises:
            InputError: A conversation has no template, or a text has no end token.
        """
        rejects: list[Reject] = []
        rendered = list(self._renderer.render(batch, rejects))
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
            matched_mappings=self._renderer.matched_mappings,
            first_records=first_records,
        )

    def _tokenized(
        self, rendered: list[RenderedRecord], rejects: list[Reject]
    ) -> Iterator[tuple[RenderedRecord, TokenizedText]]:
        try:
            tokenized = self._tokenize([document.text for document in rendered])
        except RecordError:  # the library cannot tokenize one of the texts: find it
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
            # A panic of Rust is not an Exception in Python.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise RecordError("tokenizer", f"the tokenizer refuses it: {error}") from error
            raise
