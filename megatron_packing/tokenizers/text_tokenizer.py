# SPDX-License-Identifier: Apache-2.0
"""Tokenizes texts, and finds the bytes of the text that each token covers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of one text."""

    ids: NDArray[np.int32]
    """Shape ``(num_tokens,)``."""
    starts: NDArray[np.int64]
    """Shape ``(num_tokens,)``: first byte of each token in the text's UTF-8."""
    stops: NDArray[np.int64]
    """Shape ``(num_tokens,)``: the byte after the last of each token."""


class TextTokenizer(Protocol):
    """The interface of tokenizers."""

    vocabulary_size: int
    """The largest token id + 1."""
    special: frozenset[str]
    """Special tokens, such as ``<|im_end|>``."""

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Tokenize texts. Special tokens in a text are recognized, and none are added."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, including special tokens."""

    def token_of(self, text: str) -> int | None:
        """Return the id of the token with this text; None if there is none."""

    def normalize(self, text: str) -> str:
        """Return the text in Unicode NFC if the tokenizer normalizes to it, or else unchanged."""


class HuggingFaceTokenizer:
    """A ``tokenizer.json``.

    In byte-level BPE, and in BPE with byte fallback, every token is a fixed sequence of bytes.
    There the joined bytes of a text's tokens are compared with the text. If they are equal, the
    lengths of the tokens give their offsets, which is faster than the library's offsets. Otherwise
    the library's offsets are used.
    """

    def __init__(self, content: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        description = json.loads(content)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary.values()) + 1
        added = description.get("added_tokens") or []
        self.special = frozenset(token["content"] for token in added if token.get("special"))
        self._bytes = _token_bytes(description, vocabulary, self.vocabulary_size)
        self._num_bytes = _lengths(self._bytes or [])
        normalizer = description.get("normalizer") or {}
        self._composes = normalizer.get("type") == "NFC"

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        texts = list(texts)
        if self._bytes is None:
            return [self._with_offsets(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        pairs = zip(texts, encodings, strict=True)
        return [self._from_bytes(text, encoding.ids) for text, encoding in pairs]

    def decode(self, tokens: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def token_of(self, text: str) -> int | None:
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._composes else text

    def _from_bytes(self, text: str, ids: list[int]) -> TokenizedText:
        assert self._bytes is not None
        if b"".join(map(self._bytes.__getitem__, ids)) != text.encode():
            return self._with_offsets(text)  # the tokenizer changes the text
        return _from_lengths(ids, self._num_bytes)

    def _with_offsets(self, text: str) -> TokenizedText:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        if not text.isascii():
            in_bytes = np.cumsum([0, *(len(character.encode()) for character in text)])
            offsets = in_bytes[offsets]
        return TokenizedText(np.array(encoding.ids, np.int32), offsets[:, 0], offsets[:, 1])


class RankTokenizer:
    """Byte-level BPE by ranks, from a tiktoken file or a ``tekken.json``, encoded by tiktoken."""

    def __init__(
        self,
        pattern: str,
        ranks: dict[bytes, int],
        special_tokens: dict[str, int],
        composes: bool = False,
    ) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens
        )
        self._special_tokens = special_tokens
        self._ranks = ranks
        self.vocabulary_size = max([*ranks.values(), *special_tokens.values()]) + 1
        self.special = frozenset(special_tokens)
        self._bytes: list[bytes] = [b""] * self.vocabulary_size
        for piece, token in ranks.items():
            self._bytes[token] = piece
        for name, token in special_tokens.items():
            self._bytes[token] = name.encode()
        self._num_bytes = _lengths(self._bytes)
        self._composes = composes
        self._find_special = any_of(special_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        return [self._tokenize_one(text) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self._bytes[token] for token in tokens).decode(errors="replace")

    def token_of(self, text: str) -> int | None:
        return self._special_tokens.get(text, self._ranks.get(text.encode()))

    def normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._composes else text

    def _tokenize_one(self, text: str) -> TokenizedText:
        # Only those that occur, because the library copies the set in each call.
        present = set(self._find_special.findall(text))
        ids = self._encoding.encode(text, allowed_special=present, disallowed_special=())
        return _from_lengths(ids, self._num_bytes)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the texts, the longest first; none match no text."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _from_lengths(ids: list[int], num_bytes: NDArray[np.int64]) -> TokenizedText:
    tokens = np.fromiter(ids, np.int32, len(ids))
    lengths = num_bytes[tokens]
    stops = np.cumsum(lengths)
    return TokenizedText(tokens, stops - lengths, stops)


def _lengths(pieces: list[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, pieces), np.int64, len(pieces))


def _token_bytes(
    description: dict[str, Any], vocabulary: dict[str, int], size: int
) -> list[bytes] | None:
    """Return the bytes of each token; None if a token is not a fixed sequence of bytes."""
    if description["model"].get("type") != "BPE":
        return None
    if "ByteLevel" in _types(description.get("pre_tokenizer")):
        of_symbol = {symbol: byte for byte, symbol in enumerate(_byte_level_alphabet())}

        def piece_bytes(piece: str) -> bytes:
            return bytes(of_symbol[symbol] for symbol in piece)

    elif description["model"].get("byte_fallback"):

        def piece_bytes(piece: str) -> bytes:
            byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()

    else:
        return None
    pieces = [b""] * size
    added = {token["content"] for token in description.get("added_tokens") or []}
    try:
        for piece, token in vocabulary.items():
            pieces[token] = piece.encode() if piece in added else piece_bytes(piece)
    except KeyError:  # a piece with a symbol outside the byte-level alphabet
        return None
    return pieces


def _types(component: dict[str, Any] | None) -> set[str]:
    """Return the type of a component of a ``tokenizer.json`` and of its parts."""
    if not component:
        return set()
    parts = component.get("pretokenizers") or []
    return {component["type"]}.union(*map(_types, parts))


def _byte_level_alphabet() -> list[str]:
    """Return the symbol of each byte in GPT-2's byte-level BPE: itself, or one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    symbols = []
    shifted = 0x100
    for byte in range(256):
        symbols.append(chr(byte if byte in printable else shifted))
        shifted += byte not in printable
    return symbols


def split_at_edges(
    tokenizer: TextTokenizer,
    tokenized: TokenizedText,
    text: str,
    spans: Sequence[tuple[int, int]],
) -> TokenizedText:
    """Tokenize a text again if one of its tokens crosses an edge of a span.

    If an answer begins with a line break, one token can contain it and the line break that ends the
    prompt. In use, a model gets the tokens of the prompt and then writes its own, so it never sees
    that token. A text with such a token is cut at all edges; other texts keep their tokens.

    Args:
        tokenizer: The tokenizer of the text.
        tokenized: The tokens of ``text``.
        text: The text.
        spans: Ranges of characters, in order.
    """
    characters = [edge for span in spans for edge in span]
    edges = np.asarray(_in_bytes(text, characters), np.int64)
    end = tokenized.stops.max(initial=0)
    bounds = np.append(tokenized.starts, end)
    edges = np.minimum(edges, end)  # the tokenizer may strip the end of a text
    if np.array_equal(bounds[np.searchsorted(bounds, edges)], edges):
        return tokenized
    cuts = zip([0, *characters], [*characters, len(text)], strict=True)
    parts = tokenizer.tokenize([text[start:stop] for start, stop in cuts])
    ids = np.concatenate([part.ids for part in parts])
    lengths = np.concatenate([part.stops - part.starts for part in parts])
    stops = np.cumsum(lengths)
    if stops[-1] != tokenized.stops[-1]:
        return tokenized  # the tokenizer adds to the start of each part
    return TokenizedText(ids, stops - lengths, stops)


def _in_bytes(text: str, edges: list[int]) -> list[int]:
    """Convert ascending character offsets in a text to byte offsets in its UTF-8."""
    if text.isascii():
        return edges
    # The text between two edges is encoded once.
    pieces = zip([0, *edges], edges, strict=False)
    return list(accumulate(len(text[start:stop].encode()) for start, stop in pieces))


def trained_tokens(
    tokenized: TokenizedText, text: str, spans: Sequence[tuple[int, int]]
) -> NDArray[np.uint8]:
    """Return the loss mask: 1 for each token inside a span.

    A token that starts before a span is not marked, because the prompt would end inside it.

    Args:
        tokenized: The tokens of ``text``.
        text: The text.
        spans: Ranges of characters, in order, without their end; they must not overlap.
    """
    mask = np.zeros(len(tokenized.ids), np.uint8)
    if not spans:
        return mask
    edges = _in_bytes(text, [edge for span in spans for edge in span])
    first = np.searchsorted(tokenized.starts, edges[::2], "left")
    last = np.searchsorted(tokenized.stops, edges[1::2], "right")
    for start, stop in zip(first.tolist(), last.tolist(), strict=True):
        mask[start:stop] = 1
    return mask
