# SPDX-License-Identifier: Apache-2.0
"""Makes this folder's files anew; only for a release that breaks the promise.

python -m tests.golden.make
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from megatron_packing import Corpus
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows
from tests.conftest import write_corpus

FOLDER = Path(__file__).parent
SETTINGS = {
    "whole": PlanSettings(strategy="optimal", sequence_length=256, seed=3),
    "split": PlanSettings(
        strategy="optimal", sequence_length=96, overlong="split", alignment=4, seed=4
    ),
}
EPOCHS = 3


def row_hashes(index: PackIndex, corpus: Corpus) -> list[str]:
    """A hash of what each row holds, over three epochs in training's order.

    Not of what only kernels read: how the tail is cut, and the sizes of ``RowShape``.
    """
    rows = PackedRows(index=index, corpus=corpus, seed=11, new_order_each_epoch=True)
    hashes = []
    for sample in range(EPOCHS * len(index)):
        digest = hashlib.sha256()
        row = rows.row(sample)
        del row["max_seqlen"]
        documents = np.count_nonzero(row["real_lengths"])
        row["real_lengths"] = row["real_lengths"][:documents]
        row["cu_seqlens"] = row["cu_seqlens"][: documents + 1]
        for name, array in sorted(row.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        hashes.append(digest.hexdigest()[:16])
    return hashes


def make() -> None:
    """Write the corpus, an index of each kind, and the hashes of their rows."""
    os.chdir(FOLDER)  # an index records the corpus as it was named
    lengths = np.random.default_rng(8).integers(2, 250, 40).tolist()
    write_corpus(Path("corpus"), lengths)
    corpus = Corpus(Path("corpus"))
    for name, settings in SETTINGS.items():
        index = build_pack_index(corpus, settings, Path(name))
        text = "\n".join(row_hashes(index, corpus)) + "\n"
        Path(f"{name}_rows.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make()
