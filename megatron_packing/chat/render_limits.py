# SPDX-License-Identifier: Apache-2.0
"""Limits the work of a chat template.

A rendering is limited in steps, nested macros and characters. The limits count work, not time, so a
record is refused on every machine or on none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from megatron_packing.records.record import RecordError

_MAX_NESTED_MACROS = 100
_MAX_INTEGER_BITS = 1 << 16
_MAX_INDENT = 64
_WIDTH = re.compile(r"\d{7}")
_NESTED_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{")  # an argument is a width, as in {:{}}


class RenderLimits:
    """Counts the work of a rendering and refuses too much of it."""

    def __init__(self, most_characters: int) -> None:
        self.most_characters = most_characters
        self.begin(0)

    def begin(self, num_messages: int) -> None:
        """Reset the counts for a rendering.

        The steps grow with the square of the messages, because templates may look back.
        """
        self._most_steps = self._steps_left = 2_000_000 + 16 * num_messages**2
        self._nested = 0

    def step(self, number: int = 1) -> None:
        """Count iterations of loops and visited elements."""
        self._steps_left -= number
        if self._steps_left < 0:
            raise RecordError(
                "template", f"the chat template takes more than {self._most_steps:,} steps for it"
            )

    def enter_macro(self) -> None:
        """Count the start of a macro."""
        self.step()
        self._nested += 1
        if self._nested > _MAX_NESTED_MACROS:
            raise RecordError(
                "template",
                f"the chat template nests more than {_MAX_NESTED_MACROS} macro calls for it",
            )

    def leave_macro(self) -> None:
        """Count the end of a macro."""
        self._nested -= 1

    def check_size(self, size: int) -> None:
        """Refuse a text or a list that is too long."""
        if size > self.most_characters:
            raise RecordError(
                "too long",
                f"the chat template makes more than {self.most_characters:,} characters of it",
            )

    def checked(self, value: Any) -> Any:
        """Return a value unless it is too long."""
        if isinstance(value, str | list | tuple):
            self.check_size(len(value))
        return value

    def concatenate(self, *values: Any) -> str:
        """Join values as Jinja's ``~`` does."""
        return str(self.checked("".join(map(str, values))))

    def join(self, texts: Iterable[str]) -> str:
        """Join texts: the captured output of macros and blocks."""
        return str(self.checked("".join(texts)))

    def count(self, elements: Any) -> Any:
        """Count the elements of a loop, and return them."""
        if isinstance(elements, list):
            self.step(list.__len__(elements) + 1)  # len() of watched messages reads all
        elif isinstance(elements, str | tuple | range | Mapping):
            self.step(len(elements) + 1)
        elif isinstance(elements, Iterator):
            return self._counted(elements)
        return elements

    def _counted(self, elements: Iterator[Any]) -> Iterator[Any]:
        for element in elements:
            self.step()
            yield element

    def written(self, value: Any) -> Any:
        """Count the elements of a value that ``{{ }}`` writes, because nested lists may repeat."""
        if not isinstance(value, str):
            self._walk(value)
        return value

    def _walk(self, value: Any) -> None:
        pending = [value]  # not recursion, which is many times slower in deep values
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                self.step(list.__len__(value))
                items: Iterable[Any] = list.__iter__(value)
            elif isinstance(value, tuple):
                self.step(len(value))
                items = value
            elif isinstance(value, Mapping):
                self.step(len(value))
                items = value.values()
            else:
                continue
            pending.extend(item for item in items if isinstance(item, list | tuple | Mapping))

    def operation(self, operator: str, left: Any, right: Any) -> None:
        """Refuse an operation with a result that is too large."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    self.check_size(len(one) * other)
            if isinstance(left, int) and isinstance(right, int):
                _check_integer(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_integer(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str):
            self._check_widths(left)

    def method(self, text: str, name: str, arguments: tuple[Any, ...]) -> None:
        """Refuse a method of a text with a result that is too long."""
        if name in ("format", "format_map"):
            self._check_widths(text)
        if name not in ("format", "format_map") or _NESTED_FIELD.search(text):
            for argument in arguments:
                if isinstance(argument, int):
                    self.check_size(argument)
        if name == "replace" and len(arguments) >= 2:
            self._check_replacement(text, *arguments[:2])
        elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
            self._check_joined(text, arguments[0])
        elif name == "expandtabs":
            width = next((one for one in arguments if isinstance(one, int)), 8)
            self.check_size(len(text) + text.count("\t") * width)

    def filter(self, name: str, value: Any, arguments: list[Any]) -> None:
        """Refuse a filter with too much work or a result that is too large."""
        if isinstance(value, list):
            self.step(list.__len__(value))
        elif isinstance(value, tuple | range | Mapping):
            self.step(len(value))
        integers = [one for one in arguments if isinstance(one, int)]
        for integer in integers:
            self.check_size(integer)
        if name in ("tojson", "pprint", "string", "join", "list"):
            self._walk(value)
        text = value if isinstance(value, str) else ""
        if name == "tojson" and max(integers, default=0) > _MAX_INDENT:
            self.check_size(self.most_characters + 1)
        elif name == "indent":
            widths = [len(one) for one in arguments if isinstance(one, str)] + integers
            self.check_size(len(text) + (text.count("\n") + 1) * max(widths, default=4))
        elif name == "replace" and len(arguments) >= 2:
            self._check_replacement(text, *arguments[:2])
        elif name == "join" and isinstance(value, list | tuple):
            self._check_joined(next((one for one in arguments if isinstance(one, str)), ""), value)
        elif name == "format":
            self._check_widths(text)

    def _check_replacement(self, text: str, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.check_size(len(text) + text.count(old) * len(new))

    def _check_joined(self, separator: str, texts: list[Any] | tuple[Any, ...]) -> None:
        sizes = sum(len(text) for text in texts if isinstance(text, str))
        self.check_size(sizes + len(separator) * len(texts))

    def _check_widths(self, text: str) -> None:
        if _WIDTH.search(text):
            self.check_size(self.most_characters + 1)


def _check_integer(bits: int) -> None:
    if bits > _MAX_INTEGER_BITS:
        raise RecordError(
            "template", f"the chat template computes a number of more than {_MAX_INTEGER_BITS} bits"
        )
