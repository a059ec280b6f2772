# SPDX-License-Identifier: Apache-2.0
"""Small text files in folders of checkpoints, which may be in an object store.

Megatron reads and writes checkpoints whose names begin with ``msc://`` through NVIDIA's
multi-storage client. So are these files; ``pathlib`` would take such a name for a local folder.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.files.whole import write_whole

CLIENT_SCHEME = "msc://"


def is_url(folder: str | Path) -> bool:
    """Whether a name is not that of a file or folder of this machine."""
    return "://" in str(folder)


def in_folder(folder: str | Path, *names: str) -> str:
    """The name of a file in a folder, local or not."""
    return "/".join((str(folder).rstrip("/"), *names))


def read_text(path: str) -> str | None:
    """The text of a file; None where there is none.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8.
        InputError: Its scheme is not ``msc://``, or the client is not installed.
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
    """Write a file, or replace it, so that readers find the old text or the new, never a part.

    Raises:
        InputError: Its scheme is not ``msc://``, or the client is not installed.
    """
    if is_url(path):
        _client(path).write(path, text.encode("utf-8"))
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), text)


def _client(path: str) -> Any:
    if not path.startswith(CLIENT_SCHEME):
        raise InputError(
            f"{path} is neither local nor of the multi-storage client; give a folder, or the name "
            f"that a profile of the client gives it, {CLIENT_SCHEME}PROFILE/..."
        )
    try:
        return importlib.import_module("multistorageclient")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} needs the multi-storage client: pip install multi-storage-client"
        ) from error
