"""Megatron-Bridge, where it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

try:
    BRIDGE = tuple(map(int, version("megatron-bridge").split(".")[:2]))
except PackageNotFoundError:
    BRIDGE = ()
needs_bridge = pytest.mark.skipif(not BRIDGE, reason="megatron-bridge is not installed")
