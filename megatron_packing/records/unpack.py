# SPDX-License-Identifier: Apache-2.0
"""Decompresses as far as a file is whole.

The libraries' own file objects lose what they decoded when the file breaks off, or take its end for
a good one (zstandard). This one hands over all that was decoded, and then says what is wrong.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO, Literal

Compression = Literal["", "gzip", "zstd"]
"""How a file is compressed; empty where it is not."""

_BLOCK_BYTES = 1 << 16
# Handed to a decoder at a time: a byte of gzip is 1,032 at most, four of zstd are up to 128 KiB.
_STEP_BYTES = {"gzip": 1 << 16, "zstd": 1 << 12}


class Unpacked(io.RawIOBase):
    """The decompressed bytes of a file, which may be several compressed ones on end."""

    def __init__(self, stored: BinaryIO, compression: Compression) -> None:
        """Read ``stored``, which stays open."""
        self._stored = stored
        self._compression = compression
        self._unpacker: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self._error: Exception | None = None
        self._count = 0
        self._any_before = False

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._count

    def readinto(self, buffer: Any) -> int:
        while not self._output and self._error is None and self._unpack():
            pass
        if not self._output and self._error is not None:
            raise self._error
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        self._count += size
        return size

    def _unpack(self) -> bool:
        """Decompress one block; False at the end."""
        self._input = self._input or self._stored.read(_BLOCK_BYTES)
        if self._unpacker is None and self._any_before and self._compression == "gzip":
            self._input = self._input.lstrip(b"\0")  # padding, as tapes and gzip -t take it
            if not self._input:
                self._input = self._stored.read(_BLOCK_BYTES)
                return bool(self._input)
        if not self._input:
            if self._unpacker is not None:
                self._error = EOFError("the compressed file is cut off")
            return False
        try:
            if self._unpacker is None:
                self._unpacker = self._begin()
            step = _STEP_BYTES[self._compression]
            taken, rest = self._input[:step], self._input[step:]
            self._output = memoryview(self._unpacker.decompress(taken))
        except Exception as error:
            self._error = ValueError(f"the compressed file is damaged: {error}")
            return False
        self._input = rest
        if self._unpacker.eof:
            self._input = self._unpacker.unused_data + rest
            self._unpacker = None
            self._any_before = True
        return True

    def _begin(self) -> Any:
        if self._compression == "gzip":
            return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
