# SPDX-License-Identifier: Apache-2.0
"""The promise: indexes that an earlier release wrote give the same rows, byte for byte."""

from __future__ import annotations

import pytest

from megatron_packing import Corpus
from megatron_packing.index.pack_index import PackIndex
from tests.golden.make import FOLDER, SETTINGS, row_hashes


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_an_index_of_this_releases_format_gives_the_rows_it_gave(name):
    index = PackIndex.open(FOLDER / name)
    index.check_arrays()
    expected = (FOLDER / f"{name}_rows.txt").read_text(encoding="utf-8").split()
    assert row_hashes(index, Corpus(FOLDER / "corpus")) == expected
    assert len(set(expected)) > len(index)  # epochs have rows of their own


def test_the_files_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 100_000
