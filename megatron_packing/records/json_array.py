# SPDX-License-Identifier: Apache-2.0
"""Cuts JSON into the texts of its records: the elements of an array, or objects side by side.

Only brackets and strings are looked at: what stands between them is for the parser to judge, and an
element that it refuses costs no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_BLOCK_BYTES = 1 << 16
_STRUCTURE = re.compile(rb'["\[\]{},]')
_BETWEEN = b" \t\r\n,\xef\xbb\xbf"  # what may stand between objects: also a byte order mark
_WITHIN_STRING = re.compile(rb'(?:[^"\\]+|\\.)*', re.DOTALL)


def read_elements(file: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield the text of each element, or its length where that is over the limit.

    Args:
        file: Its first character that is no white space is the array's bracket.
        limit: Bytes of an element that are held in memory, about.

    Raises:
        EOFError: The file ends within the array.
        ValueError: Something follows the array.
    """
    buffer = bytearray()
    place = depth = dropped = 0
    in_string = False

    def element(end: int) -> bytes | int:
        length = dropped + end
        return length if length > limit else bytes(buffer[:end])

    while block := file.read(_BLOCK_BYTES):
        buffer += block
        while True:
            if in_string:
                place = _WITHIN_STRING.match(buffer, place).end()  # type: ignore[union-attr]
                if place >= len(buffer) or buffer[place] != ord('"'):
                    break  # the string, or an escape in it, goes on
                in_string = False
                place += 1
            found = _STRUCTURE.search(buffer, place)
            if found is None:
                place = len(buffer)
                break
            place = found.end()
            symbol = found[0]
            if symbol == b'"':
                in_string = True
            elif symbol in b"[{":
                depth += 1
                if depth == 1:
                    del buffer[:place]
                    place = 0
            elif symbol in b"]}":
                depth -= 1
                if depth == 0:
                    if dropped or buffer[: place - 1].strip():
                        yield element(place - 1)
                    if buffer[place:].strip() or _any_left(file):
                        raise ValueError("something follows the array")
                    return
            elif depth == 1:
                yield element(place - 1)
                del buffer[:place]
                place = dropped = 0
        if dropped + len(buffer) > limit:
            # An escape that is cut in two stays.
            dropped += place
            del buffer[:place]
            place = 0
    raise EOFError("the array does not end")


def read_objects(file: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield the text of each object, or its length where it is over the limit.

    Objects may stand on one line or over several, with commas between them or without. What else
    stands between them is yielded too, for the parser to refuse.

    Args:
        file: Objects from its beginning to its end.
        limit: Bytes of an object that are held in memory, about.

    Raises:
        EOFError: The file ends within an object.
    """
    buffer = bytearray()
    place = depth = dropped = 0
    in_string = False

    def cut(end: int) -> bytes | int:
        nonlocal place, dropped
        length = dropped + end
        text = length if length > limit else bytes(buffer[:end])
        del buffer[:end]
        place = dropped = 0
        return text

    while block := file.read(_BLOCK_BYTES):
        buffer += block
        while True:
            if in_string:
                place = _WITHIN_STRING.match(buffer, place).end()  # type: ignore[union-attr]
                if place >= len(buffer) or buffer[place] != ord('"'):
                    break
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
            elif symbol in b"[{":
                if depth == 0:
                    if dropped or buffer[: place - 1].strip(_BETWEEN):
                        yield cut(place - 1)
                    else:
                        del buffer[: place - 1]
                    place = 1
                depth += 1
            elif symbol in b"]}" and depth:
                depth -= 1
                if depth == 0:
                    yield cut(place)
        if depth == 0 and not dropped and not buffer.strip(_BETWEEN):
            buffer.clear()
            place = 0
        if dropped + len(buffer) > limit:
            # An escape that is cut in two stays.
            dropped += place
            del buffer[:place]
            place = 0
    if depth:
        raise EOFError("the file ends within an object")
    if dropped or buffer.strip(_BETWEEN):
        yield cut(len(buffer))


def _any_left(file: BinaryIO) -> bool:
    return any(block.strip() for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
