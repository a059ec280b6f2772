# SPDX-License-Identifier: Apache-2.0
"""Prints a hash of each plan of many, which must be the same with every processor and compiler.

Imported by no test: tools/check_aarch64.sh and tools/check_clang.sh run it with this machine's core
and with another one, with nothing but numpy and the package installed.
"""

from __future__ import annotations

import hashlib
import platform
import sys

import numpy as np

from megatron_packing import STRATEGIES, plan_packs

SETTINGS = (
    {"sequence_length": 4096},
    {"sequence_length": 8192, "alignment": 8},
    {"sequence_length": 2048, "max_documents_per_pack": 3},
    {"sequence_length": 4096, "packs_multiple_of": 64, "seed": 7},
    {"sequence_length": 2048, "min_packs": 2000},
)


def length_sets() -> dict[str, np.ndarray]:
    """Chat-like, uniform and hard lengths, from integers: logarithms differ between machines."""
    random = np.random.default_rng(0)
    short, long = random.integers(1, 600, 3000), random.integers(600, 9000, 400)
    return {
        "chat": np.concatenate([short, long]),
        "uniform": random.integers(1, 4097, 500),
        "quarter": random.integers(513, 1024, 100),  # needs prices: floating-point numbers
        "few": random.integers(1, 2048, 60),
        "equal": np.full(70_000, 100),  # dealt by several threads
    }


def hash_of(plan) -> str:
    digest = hashlib.sha256()
    arrays = (plan.pack_offsets, plan.document_ids, plan.segment_starts, plan.segment_lengths)
    for array in arrays:
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    digest.update(repr((plan.lower_bound, plan.num_positions)).encode())
    return digest.hexdigest()[:16]


def main() -> None:
    for name, lengths in length_sets().items():
        for strategy in STRATEGIES:
            for settings in SETTINGS:
                plan = plan_packs(lengths, strategy=strategy, overlong="split", **settings)
                print(name, strategy, settings, hash_of(plan))
    for count, row in ((60, 512), (200, 2048)):
        lengths = np.random.default_rng(count).integers(row // 4 + 1, row // 2, count)
        print("high", count, row, hash_of(plan_packs(lengths, row, effort="high")))
    print(platform.machine(), sys.version.split()[0], file=sys.stderr)


if __name__ == "__main__":
    main()
