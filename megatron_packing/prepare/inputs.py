"""Finds the files that a corpus is made from, here or wherever fsspec reaches."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from megatron_packing.errors import InputError
from megatron_packing.prepare.unpack import Unpacked

Format = Literal["lines", "array", "parquet", "dataset"]
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of records, or a folder that Hugging Face ``datasets`` saved."""

    name: str
    """Its path, or its URL."""
    size: int
    """In bytes, as stored."""
    modified: str
    """When it was changed last, or its tag; empty where the file system does not say."""
    format: Format
    compression: Literal["", "gzip", "zstd"] = ""

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Yield its bytes, decompressed, and the stored bytes that they come from."""
        import fsspec

        with fsspec.open(self.name, "rb") as stored:
            source = Unpacked(stored, self.compression) if self.compression else stored
            yield io.BufferedReader(source, _BLOCK_BYTES), stored

    @property
    def unit(self) -> str:
        """What its records are counted in."""
        return "line" if self.format == "lines" else "record"

    def sha256(self, stopped: Callable[[], bool] = lambda: False) -> str:
        """A digest of the stored bytes; of a folder, of its files' names and bytes.

        Args:
            stopped: Asked now and then; when it says so, the digest is of nothing.
        """
        import fsspec

        digest = hashlib.sha256()
        system, path = fsspec.core.url_to_fs(self.name)
        paths = [path] if self.format != "dataset" else sorted(system.find(path))
        for one in paths:
            if self.format == "dataset":
                digest.update(one.removeprefix(path).encode())
            with system.open(one, "rb") as file:
                while not stopped() and (block := file.read(_BLOCK_BYTES)):
                    digest.update(block)
        return digest.hexdigest()


def find_inputs(patterns: Sequence[str]) -> list[InputFile]:
    """Find the files that paths, globs and URLs name, those of a glob in the order of their names.

    What a file holds is told by its first bytes, not by its name.

    Raises:
        InputError: A file does not exist, cannot be read or is none that can be used.
    """
    try:
        import fsspec
    except ImportError as error:
        raise InputError(
            "tokenizing needs fsspec, which is not installed; "
            "install it with: pip install 'megatron-packing[tokenize]'"
        ) from error
    found: list[InputFile] = []
    seen: set[tuple[str, str]] = set()
    for pattern in patterns:
        try:
            system, path = fsspec.core.url_to_fs(pattern)
        except (ImportError, ValueError) as error:
            raise InputError(f"the input {pattern} cannot be opened: {error}") from error
        is_url = "://" in pattern or "::" in pattern
        is_glob = any(character in path for character in "*?[") and not system.exists(path)
        if is_glob:
            paths = sorted(one for one in system.glob(path) if not system.isdir(one))
            if not paths:
                raise InputError(f"no file matches the input {pattern}")
        else:
            paths = [path]
        for one in paths:
            if (place := (type(system).__name__, one)) in seen:
                raise InputError(
                    f"the input {one} is given twice; give it once (pack takes a corpus several "
                    f"times: PREFIX:EPOCHS)"
                )
            seen.add(place)
            given = one if is_glob else pattern
            name = str(system.unstrip_protocol(one)) if is_url else given
            try:
                found.append(_describe(system, one, name))
            except (InputError, OSError):
                raise
            except Exception as error:  # of a remote file system: credentials, names, networks
                raise InputError(f"the input {name} cannot be opened: {error}") from error
    return found


def _describe(system: Any, path: str, name: str) -> InputFile:
    try:
        info = system.info(path)
    except FileNotFoundError as error:
        raise InputError(f"the input {name} does not exist") from error
    modified = next(
        (str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified") if key in info), ""
    )
    if info["type"] == "directory":
        return _describe_folder(system, path, name)
    if info["type"] != "file":
        raise InputError(f"the input {name} is no regular file; write it to a file first")
    with system.open(path, "rb") as file:
        start = file.read(4)
    if start == _PARQUET:
        return InputFile(name, info["size"], modified, "parquet")
    compression: Literal["", "gzip", "zstd"] = ""
    if start.startswith(_GZIP):
        compression = "gzip"
    elif start == _ZSTD:
        compression = "zstd"
    plain = InputFile(name, info["size"], modified, "lines", compression)
    return InputFile(name, info["size"], modified, _text_format(plain), compression)


def _text_format(file: InputFile) -> Format:
    """An array if it begins with a bracket and an object, and is no line of JSON among others."""
    try:
        with file.open() as (unpacked, _):
            start = unpacked.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not start.startswith(b"[") or start[1:].lstrip()[:1] != b"{":
                return "lines"
            line, _, rest = (start + unpacked.read(_BLOCK_BYTES)).partition(b"\n")
            try:
                json.loads(line)
            except (ValueError, RecursionError):
                return "array"
            return "lines" if rest.strip() else "array"
    except (EOFError, ValueError):
        return "lines"  # reading it will tell


def _describe_folder(system: Any, path: str, name: str) -> InputFile:
    files = {one.rpartition("/")[2]: one for one in system.find(path, maxdepth=1)}
    if "dataset_dict.json" in files:
        splits = ", ".join(
            one.rstrip("/").rpartition("/")[2]
            for one in sorted(system.ls(path, detail=False))
            if system.isdir(one)
        )
        raise InputError(
            f"the input {name} holds several splits of a data set; give one of its folders: "
            f"{splits}"
        )
    if "state.json" not in files:
        raise InputError(
            f"the input {name} is a folder, but none that Hugging Face datasets saved; "
            f"give its files, as a glob such as {name.rstrip('/')}/*.jsonl"
        )
    infos = [system.info(one) for one in files.values()]
    size = sum(info["size"] for info in infos)
    modified = str(max(info.get("mtime", 0) for info in infos))
    return InputFile(name, size, modified, "dataset")
