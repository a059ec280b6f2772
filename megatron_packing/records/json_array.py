# SPDX-License-Identifier: Apache-2.0
"""Splits JSON into the texts of its records: the elements of an array, or consecutive objects.

Only brackets, commas and strings are looked at. The parser checks each text later, so one that is
not valid JSON does not affect the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_BLOCK_BYTES = 1 << 16
_STRUCTURE = re.compile(rb'["\[\]{},]')
_BETWEEN = b" \t\r\n,\xef\xbb\xbf"  # allowed between objects, also byte order marks
_WITHIN_STRING = re.compile(rb'(?:[^"\\]+|\\.)*', re.DOTALL)


def read_elements(file: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield the text of each element of an array, or its length if that exceeds the limit.

    Args:
        file: A JSON array. Its first character that is not white space is the opening bracket.
        limit: About how many bytes of an element to hold in memory.

    Raises:
        EOFError: The file ends within the array.
        ValueError: Something follows the array.
    """
    scan = _Scan(file, limit)
    for symbol in scan.symbols():
        if symbol in b"[{":
            scan.skip(scan.place)
        elif symbol == b",":
            yield scan.cut(scan.place - 1)
            scan.skip(1)
        else:
            if scan.has_text(scan.place - 1):
                yield scan.cut(scan.place - 1)
            scan.skip(scan.place)
            if scan.buffer.strip() or any(block.strip() for block in scan.blocks()):
                raise ValueError("something follows the array")
            return
    raise EOFError("the array does not end")


def read_objects(file: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield the text of each object, or its length if that exceeds the limit.

    Objects may be on one line or on several, with or without commas between them. Other text
    between objects is yielded too, for the parser to refuse.

    Args:
        file: Consecutive JSON objects.
        limit: About how many bytes of an object to hold in memory.

    Raises:
        EOFError: The file ends within an object.
    """
    scan = _Scan(file, limit)
    for symbol in scan.symbols():
        if symbol in b"]}":
            yield scan.cut(scan.place)
        elif symbol in b"[{":
            if scan.has_text(scan.place - 1, _BETWEEN):
                yield scan.cut(scan.place - 1)
            else:
                scan.skip(scan.place - 1)
    if scan.is_within:
        raise EOFError("the file ends within an object")
    if scan.has_text(len(scan.buffer), _BETWEEN):
        yield scan.cut(len(scan.buffer))


class _Scan:
    """Finds where the outermost array or object begins, has a comma, and ends."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.buffer = bytearray()
        """Text that was read and not cut off yet."""
        self.place = 0
        """The end of the symbol that was found last, in the buffer."""
        self.is_within = False
        """Whether an array or object is open."""
        self._file = file
        self._limit = limit
        self._dropped = 0  # bytes before the buffer, of a text that is too long

    def symbols(self) -> Iterator[bytes]:
        """Yield each bracket and comma of the outermost level, but none in strings."""
        buffer = self.buffer
        place = depth = 0
        in_string = False
        for block in self.blocks():
            buffer += block
            while True:
                if in_string:
                    place = _WITHIN_STRING.match(buffer, place).end()  # type: ignore[union-attr]
                    if place >= len(buffer) or buffer[place] != ord('"'):
                        break  # the string, or an escape in it, continues in the next block
                    in_string = False
                    place += 1
                found = _STRUCTURE.search(buffer, place)
                if found is None:
                    place = len(buffer)
                    break
                place = found.end()
                symbol = found[0]
                if symbol == b'"':
                    in_string = depth > 0
                    continue
                if symbol in b"[{":
                    depth += 1
                    is_outermost = depth == 1
                elif symbol == b",":
                    is_outermost = depth == 1
                else:
                    is_outermost = depth == 1
                    depth = max(depth - 1, 0)
                if is_outermost:
                    self.place, self.is_within = place, depth > 0
                    yield symbol
                    place = self.place
            if depth == 0 and not self.has_text(len(buffer), _BETWEEN):
                buffer.clear()
                place = 0
            if self._dropped + len(buffer) > self._limit:
                # An escape that is split between two blocks stays in the buffer.
                self._dropped += place
                del buffer[:place]
                place = 0
        self.is_within = depth > 0

    def blocks(self) -> Iterator[bytes]:
        """Yield the rest of the file."""
        return iter(lambda: self._file.read(_BLOCK_BYTES), b"")

    def has_text(self, end: int, padding: bytes | None = None) -> bool:
        """Whether there is more than padding (by default white space) before ``end``."""
        return self._dropped > 0 or bool(self.buffer[:end].strip(padding))

    def cut(self, end: int) -> bytes | int:
        """Remove the text before ``end``; return it, or its length if it exceeds the limit."""
        length = self._dropped + end
        text = length if length > self._limit else bytes(self.buffer[:end])
        self.skip(end)
        return text

    def skip(self, end: int) -> None:
        """Remove what is before ``end``."""
        del self.buffer[:end]
        self.place -= end
        self._dropped = 0
