# SPDX-License-Identifier: Apache-2.0
"""``packed_hybrid`` with the oldest supported megatron-core in place of the environment's own."""

from __future__ import annotations

import sys

from tests.hybrid.kernels import folders

sys.path.insert(0, str(folders()["megatron-core"]))

from tests.hybrid.packed_hybrid import main  # isort: skip  # before megatron

import megatron.core

assert megatron.core.__version__ == folders()["megatron-core"].name

__all__ = ["main"]
