# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge, where it is installed, or a source tree of it that takes its place."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

# A checkout of Megatron-Bridge, and one of the Megatron-LM that it wants: see source.py.
SOURCES = ("MEGATRON_BRIDGE_SOURCE", "MEGATRON_SOURCE")


def source_version(folder: str) -> tuple[int, int]:
    """The first two numbers of the version of a checkout of Megatron-Bridge."""
    path = Path(folder) / "src" / "megatron" / "bridge" / "package_info.py"
    found = dict(re.findall(r"^(MAJOR|MINOR) = (\d+)$", path.read_text(), re.M))
    return int(found["MAJOR"]), int(found["MINOR"])


try:
    installed = version("megatron-bridge")
    BRIDGE = tuple(map(int, installed.split(".")[:2]))
except PackageNotFoundError:
    BRIDGE = ()
if BRIDGE and os.environ.get(SOURCES[0]):
    BRIDGE = source_version(os.environ[SOURCES[0]])
needs_bridge = pytest.mark.skipif(not BRIDGE, reason="megatron-bridge is not installed")
