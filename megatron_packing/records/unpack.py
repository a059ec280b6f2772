# SPDX-License-Identifier: Apache-2.0
"""Decompresses gzip and zstd files, also truncated ones.

The libraries' own file objects lose decoded data if the file is truncated, or do not notice it
(zstandard). This one returns all that can be decoded, and then raises an error.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO, Literal

Compression = Literal["", "gzip", "zstd"]
"""How a file is compressed; empty if it is not."""

_BLOCK_BYTES = 1 << 16
# Input per decoder call. One byte of gzip becomes at most 1,032 bytes, four of zstd up to 128 KiB.
_STEP_BYTES = {"gzip": 1 << 16, "zstd": 1 << 12}


class Unpacked(io.RawIOBase):
    """Reads the decompressed bytes of one or more concatenated compressed files."""

    def __init__(self, stored: BinaryIO, compression: Compression) -> None:
        """Read from ``stored``, which is not closed."""
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
        """Decompress one block; return False at the end of the file."""
        self._input = self._input or self._stored.read(_BLOCK_BYTES)
        if self._unpacker is None and self._any_before and self._compression == "gzip":
            self._input = self._input.lstrip(b"\0")  # padding, which gzip -t accepts too
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
