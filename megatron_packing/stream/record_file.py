# SPDX-License-Identifier: Apache-2.0
"""Reads and writes small text files in checkpoint folders, which may be in an object store.

Megatron reads and writes checkpoints at ``msc://`` URLs with NVIDIA's multi-storage client. These
files use it too, because ``pathlib`` would treat such a URL as a local folder.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.files.whole import write_whole

CLIENT_SCHEME = "msc://"


def is_url(folder: str | Path) -> bool:
    """Whether a path is a URL and not a local file or folder."""
    return "://" in str(folder)


def in_folder(folder: str | Path, *names: str) -> str:
    """Join the path or URL of a folder and file names."""
    return "/".join((str(folder).rstrip("/"), *names))


def read_text(path: str) -> str | None:
    """Return the text of a file; None if the file does not exist.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not UTF-8.
        InputError: The URL's scheme is not ``msc://``, or the client is not installed.
    """
    if is_url(path):
        client = _client(path)
        if not client.is_file(path):
            return None
        with client.open(path, "rb") as file:
            content: bytes = file.read()
            return content.decode("utf-8")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_text(path: str, text: str) -> None:
    """Write or replace a file atomically: readers find the old text or the new text.

    Raises:
        InputError: The URL's scheme is not ``msc://``, or the client is not installed.
    """
    if is_url(path):
        _client(path).write(path, text.encode("utf-8"))
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), text)


def _client(path: str) -> Any:
    if not path.startswith(CLIENT_SCHEME):
        raise InputError(
            f"{path} is neither a local path nor a URL of the multi-storage client; give a folder, "
            f"or {CLIENT_SCHEME}PROFILE/... with a profile of the client"
        )
    try:
        return importlib.import_module("multistorageclient")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} needs the multi-storage client: pip install multi-storage-client"
        ) from error
