# SPDX-License-Identifier: Apache-2.0
"""Damaged files of lengths give the numbers that numpy reads in them, or one sentence.

MEGATRON_PACKING_FUZZ_CASES=20000 for a longer run.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import numpy as np
import pytest

from megatron_packing.corpus.lengths_file import read_lengths
from tests.fuzzing import read_unless_refused

CASES = int(os.environ.get("MEGATRON_PACKING_FUZZ_CASES", "1500"))
NUMBERS = (0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@pytest.mark.parametrize("dtype", ["<i4", ">i8", "<u2"])
def test_lengths_of_other_bytes(tmp_path, dtype):
    file = tmp_path / "lengths.npy"
    np.save(file, np.random.default_rng(0).integers(0, 5000, 40).astype(dtype))
    original = file.read_bytes()
    chance, seen = random.Random(6), Counter()
    for _ in range(CASES):
        content = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 5])):
            kind = chance.randrange(5)
            # The header is the smaller part and has more to be wrong.
            at = chance.randrange(chance.choice([80, len(content)]))
            if kind == 0:
                content[at] = chance.randrange(256)
            elif kind == 1:
                content[at] = chance.choice(b"0123456789()',{} <>|iufOTrueFalse")
            elif kind == 2:
                del content[at : at + chance.choice([1, 2, 40])]
            elif kind == 3:
                content[at:at] = content[at : at + chance.randrange(1, 20)]
            else:
                content[at : at + 8] = chance.choice(NUMBERS).to_bytes(8, "little")
            content = content or bytearray(b"x")
        file.write_bytes(content)
        found = read_unless_refused(read_lengths, file)
        if found is None:
            seen["refused"] += 1
            continue
        expected = np.load(file, allow_pickle=False)
        assert found.tolist() == expected.tolist()
        assert found.ndim == 1
        assert min(found.tolist()) >= 0
        seen["read"] += 1
    assert min(seen["refused"], seen["read"]) > CASES // 20
