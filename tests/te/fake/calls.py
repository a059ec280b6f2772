# SPDX-License-Identifier: Apache-2.0
"""What the stand-ins were called with, and which machine they pretend to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CALLS: list[dict[str, Any]] = []
"""One entry for each call of a kernel of attention or of rotary embeddings, by name."""


@dataclass
class Machine:
    """The GPU and the libraries that Transformer Engine is told it runs on."""

    capability: tuple[int, int] = (9, 0)
    cudnn: tuple[int, int, int] = (9, 21, 0)


MACHINE = Machine()
