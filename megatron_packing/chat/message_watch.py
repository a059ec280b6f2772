# SPDX-License-Identifier: Apache-2.0
"""Messages that record when a chat template first reads each of them.

Many templates read messages in order, and read neither a later message nor the number of messages
early. When such a template first reads a message, the text so far does not depend on it. So every
prefix of the conversation renders to a prefix of the text, and one rendering gives the lengths of
all of them. Rendering each prefix separately takes time quadratic in the number of turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from megatron_packing.schemas.conversations import Message


class MessageWatch:
    """Records the length of the text when each message is first read."""

    def __init__(self, num_messages: int) -> None:
        self.length = 0
        """Characters written so far, set by the code that collects the text."""
        self._num_messages = num_messages
        self._starts: list[int] = []
        self._looked_ahead = False

    @property
    def starts(self) -> list[int] | None:
        """The start of each message in the text; None if the template looked ahead."""
        if self._looked_ahead or len(self._starts) < self._num_messages:
            return None
        return self._starts

    def read(self, number: int) -> None:
        """Record that a message is read."""
        if number >= len(self._starts):
            if number > len(self._starts):
                self._looked_ahead = True
            self._starts += [self.length] * (number + 1 - len(self._starts))

    def read_all(self) -> None:
        """Record that something is read that depends on all messages."""
        if len(self._starts) < self._num_messages:
            self._looked_ahead = True


class WatchedMessages(list[Message]):
    """A list of messages, or a suffix of it, that reports each read to a MessageWatch.

    It is a list, so templates render as usual. Iteration, a message by its number, and a suffix are
    reported exactly; everything else counts as reading all messages.
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
        raise TypeError("watched messages cannot be copied or pickled")


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
