# SPDX-License-Identifier: Apache-2.0
"""Files that are opened at once are found in order, and an error is left to who opens them anew."""

from __future__ import annotations

import threading

import pytest

from megatron_packing.errors import InputError
from megatron_packing.files.at_once import try_at_once
from tests.limits import TIME_LIMIT


def test_openers_wait_at_the_same_time_and_what_they_open_is_in_order():
    all_wait = threading.Barrier(8, timeout=TIME_LIMIT)

    def opener(number: int) -> int:
        all_wait.wait()  # as for the answer of a file server
        return number

    assert try_at_once(lambda number=number: opener(number) for number in range(8)) == [*range(8)]


def test_what_cannot_be_opened_is_none_and_a_mistake_is_raised():
    def refuse() -> int:
        raise InputError("no")

    def miss() -> int:
        raise FileNotFoundError

    def err() -> int:
        raise KeyError

    assert try_at_once([refuse, lambda: 1, miss]) == [None, 1, None]
    assert try_at_once([]) == []
    with pytest.raises(KeyError):
        try_at_once([lambda: 1, err])
