# SPDX-License-Identifier: Apache-2.0
"""What plans are tried on: lengths, seeds, and the strategies that keep documents whole."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from megatron_packing.planning.strategies import STRATEGY_TABLE

ROW = 32
WHOLE_DOCUMENTS = [row.name for row in STRATEGY_TABLE.values() if not row.cuts_documents]
lengths_in_a_row = st.lists(st.integers(1, ROW), min_size=1, max_size=60)
seeds = st.integers(0, 2**64 - 1)


def hard_lengths(row: int) -> np.ndarray:
    """Documents of which no decreasing order makes the right triples."""
    random = np.random.default_rng(0)
    kind = random.choice(3, 20_000, p=[0.4, 0.3, 0.3])
    low = np.array([row // 2, row // 3, row // 4])[kind] + 1
    high = np.array([row, row // 2, row // 3])[kind] + 1
    return random.integers(low, high)
