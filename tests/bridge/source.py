# SPDX-License-Identifier: Apache-2.0
"""A source tree of Megatron-Bridge in place of the installed release.

``MEGATRON_BRIDGE_SOURCE`` names a checkout of Megatron-Bridge, and ``MEGATRON_SOURCE`` one of the
Megatron-LM that it wants (the commit of its 3rdparty/Megatron-LM), in whose megatron/core/datasets
``make`` was run. Import this module before anything of Megatron.
"""

from __future__ import annotations

import os
from pathlib import Path

import megatron

BRIDGE_SOURCE = "MEGATRON_BRIDGE_SOURCE"
MEGATRON_SOURCE = "MEGATRON_SOURCE"


def put_sources_first() -> None:
    """Let ``megatron.bridge`` and ``megatron.core`` be those of the sources that are named."""
    folders = []
    if os.environ.get(BRIDGE_SOURCE):
        folders.append(Path(os.environ[BRIDGE_SOURCE]) / "src" / "megatron")
    if os.environ.get(MEGATRON_SOURCE):
        folders.append(Path(os.environ[MEGATRON_SOURCE]) / "megatron")
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist: it is no checkout")
    megatron.__path__ = [*map(str, folders), *megatron.__path__]


put_sources_first()
