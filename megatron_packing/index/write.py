# SPDX-License-Identifier: Apache-2.0
"""Writes a pack index, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_packing.files.whole import new_folder, sync
from megatron_packing.index.array_file import array_path, hash_of
from megatron_packing.index.manifest import (
    MANIFEST,
    ArrayEntry,
    CorpusReference,
    Figures,
    Manifest,
)
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.settings import PlanSettings


def write_pack_index(
    path: Path,
    *,
    plan: PlanSettings,
    corpus: CorpusReference,
    figures: Figures,
    arrays: dict[str, NDArray[np.integer]],
) -> PackIndex:
    """Write a pack index to the folder ``path`` and map it.

    Args:
        path: A folder that does not exist.
        plan: What ``arrays`` were planned with.
        corpus: What they were planned for.
        figures: Counts of the plan.
        arrays: By the names that ``pack_index`` describes.

    Raises:
        InputError: There is something at ``path`` already, or it cannot be written.
    """
    entries = {
        name: ArrayEntry(dtype=array.dtype.str, shape=array.shape, sha256=hash_of(array))
        for name, array in arrays.items()
    }
    manifest = Manifest(plan=plan, corpus=corpus, figures=figures, arrays=entries)
    with new_folder(path) as unfinished:
        for name, array in arrays.items():
            np.save(array_path(unfinished, name), array, allow_pickle=False)
            sync(array_path(unfinished, name))
        (unfinished / MANIFEST).write_text(manifest.as_json(), encoding="utf-8")
        sync(unfinished / MANIFEST)
    return PackIndex.map(path, manifest)


def group_places(
    lengths: NDArray[np.integer], sequence_length: int, alignment: int
) -> dict[str, NDArray[np.integer]]:
    """The arrays ``places_by_length`` and ``length_offsets`` for segments of the given lengths."""
    units = -(-lengths // alignment)
    num_units = sequence_length // alignment
    if num_units <= np.iinfo(np.uint16).max:
        units = units.astype(np.uint16)  # numpy sorts 16 bits by radix
    counts = np.bincount(units, minlength=num_units + 1)
    narrow = len(lengths) <= np.iinfo(np.int32).max
    return {
        "places_by_length": np.argsort(units, kind="stable").astype(
            np.int32 if narrow else np.int64
        ),
        "length_offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
    }
