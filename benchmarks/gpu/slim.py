# SPDX-License-Identifier: Apache-2.0
"""Leaves one GPU architecture's machine code in a wheel, so that it is quick to carry.

Transformer Engine's core library holds its kernels for eight architectures, four fifths of its
400 MB. The code of the others is overwritten with zeros, which take no room in a wheel. No offset
moves, and a driver looks only at the code that its card can run. The wheel's RECORD is updated.

The layout of the section ``.nv_fatbin`` is that of ``fatbinary.h`` in CUDA's toolkit: containers of
a 16-byte header and entries, each entry with a header that names its kind and architecture.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zipfile
from pathlib import Path

CONTAINER, ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")
MAGIC = CONTAINER.pack(0xBA55ED50, 1, 16, 0)[:8]
ARCHITECTURE_AT = 0x1C  # in an entry's header, uint32: 90 for sm_90


def keep_architecture(library: bytearray, architecture: int) -> tuple[int, int]:
    """Overwrite the code of other architectures in a shared library.

    Returns:
        Bytes of code that were kept, and that were overwritten.

    Raises:
        ValueError: There is no code of this architecture.
    """
    kept = cleared = 0
    at = library.find(MAGIC)
    while at >= 0:
        _, _, header, size = CONTAINER.unpack_from(library, at)
        entry, end = at + header, at + header + size
        while entry < end:
            _, _, entry_header, code = ENTRY.unpack_from(library, entry)
            (found,) = struct.unpack_from("<I", library, entry + ARCHITECTURE_AT)
            if found == architecture:
                kept += code
            else:
                start = entry + entry_header
                library[start : start + code] = bytes(code)
                cleared += code
            entry += entry_header + code
        at = library.find(MAGIC, end)
    if not kept:
        raise ValueError(f"the library has no code of architecture {architecture}")
    return kept, cleared


def slim_wheel(wheel: Path, output: Path, architecture: int) -> tuple[int, int]:
    """Copy a wheel with the code of one architecture.

    Returns:
        Bytes of code that were kept, and that were overwritten.
    """
    kept = cleared = 0
    records: dict[str, str] = {}
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        (record,) = (name for name in source.namelist() if name.endswith(".dist-info/RECORD"))
        for info in source.infolist():
            content: bytes | bytearray = source.read(info)
            if info.filename.endswith("/libtransformer_engine.so"):
                content = bytearray(content)
                found = keep_architecture(content, architecture)
                kept, cleared = kept + found[0], cleared + found[1]
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
                records[info.filename] = f"sha256={digest.decode()},{len(content)}"
            if info.filename != record:
                target.writestr(info, content, zipfile.ZIP_DEFLATED)
        lines = []
        for line in source.read(record).decode().splitlines():
            name = line.partition(",")[0]
            lines.append(f"{name},{records[name]}" if name in records else line)
        target.writestr(source.getinfo(record), "\n".join(lines) + "\n", zipfile.ZIP_DEFLATED)
    return kept, cleared
