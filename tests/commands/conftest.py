# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from megatron_packing.report import tokenizing


@pytest.fixture(autouse=True)
def no_progress_lines():
    """A slow machine may tokenize for longer than the time after which a log gets a line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "_SECONDS_BETWEEN_LINES", math.inf)
        yield
