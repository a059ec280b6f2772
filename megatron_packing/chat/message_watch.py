# SPDX-License-Identifier: Apache-2.0
"""Messages that notice how far a chat template has read them.

A template that reads messages one after another, and never looks at one before its turn or at how
many there are, has written nothing of a message, nor anything that depends on it, when it first
reads it. What stands before that place is then the same whatever follows: every prefix of the
conversation renders to a prefix of the text, and one rendering tells all their lengths. Rendering
each prefix instead takes time quadratic in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from megatron_packing.schemas.conversations import Message


class MessageWatch:
    """How long the text was when each message was first read."""

    def __init__(self, num_messages: int) -> None:
        self.length = 0
        """Characters written so far; whoever collects the text keeps it."""
        self._num_messages = num_messages
        self._starts: list[int] = []
        self._looked_ahead = False

    @property
    def starts(self) -> list[int] | None:
        """Where each message began; None if the template looked ahead."""
        if self._looked_ahead or len(self._starts) < self._num_messages:
            return None
        return self._starts

    def read(self, number: int) -> None:
        """Note that a message is read."""
        if number >= len(self._starts):
            if number > len(self._starts):
                self._looked_ahead = True
            self._starts += [self.length] * (number + 1 - len(self._starts))

    def read_all(self) -> None:
        """Note that something is read that depends on all messages."""
        if len(self._starts) < self._num_messages:
            self._looked_ahead = True


class WatchedMessages(list[Message]):
    """A list of messages, or what of it follows its first few, that tells a watch what is read.

    It is a list, so that a template renders as with any other; only what reads in order, by number
    or from a number on is told apart, all else counts as reading everything.
    """

    def __init__(self, messages: list[Message], watch: MessageWatch, first: int = 0) -> None:
        super().__init__(messages)
        self._watch = watch
        self._first = first

    def __iter__(self) -> Iterator[Message]:
        read = self._watch.read
        for number, message in enumerate(super().__iter__(), self._first):
            read(number)
            yield message

    def __getitem__(self, key: Any) -> Any:
        count = super().__len__()
        if isinstance(key, int) and 0 <= key < count:
            self._watch.read(self._first + key)
        elif isinstance(key, slice) and key.stop is None and key.step in (None, 1):
            skipped = key.start or 0
            if skipped >= 0:
                return WatchedMessages(super().__getitem__(key), self._watch, self._first + skipped)
            self._watch.read_all()
        else:
            self._watch.read_all()
        return super().__getitem__(key)

    def __bool__(self) -> bool:
        if not super().__len__():
            self._watch.read_all()
            return False
        self._watch.read(self._first)
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("watched messages belong to one rendering")


def _reading_all(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def read(self: WatchedMessages, *arguments: Any) -> Any:
        self._watch.read_all()
        return method(self, *arguments)

    return read


for _name in (
    *("__len__", "__contains__", "__reversed__", "__repr__", "__add__", "__mul__", "__rmul__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "copy", "index", "count"),
):
    setattr(WatchedMessages, _name, _reading_all(_name))
