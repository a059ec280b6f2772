# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.bridge import stream as bridge_stream
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.record import describe_stream
from tests.conftest import chat_like_lengths, write_corpus


def test_a_checkpoint_without_a_record_is_refused_or_begins_the_packs_anew(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(30, longest=64))
    settings = PlanSettings(strategy="optimal", sequence_length=64)
    stream = describe_stream([build_pack_index(corpus, settings, tmp_path / "packs")], seed=3)
    resumed = bridge_stream._Resumed(tmp_path / "run", 24)
    with pytest.raises(InputError, match="it is unknown which rows the checkpoint was trained on"):
        bridge_stream._go_on(resumed, stream, False)
    (begun,) = bridge_stream._go_on(resumed, stream, True)
    assert begun == {**stream, "first sample": 24}
    unknown = bridge_stream._Resumed(tmp_path / "run", bridge_stream._UNKNOWN)
    with pytest.raises(InputError, match="does not say how many rows it consumed"):
        bridge_stream._go_on(unknown, stream, True)
    assert bridge_stream._go_on(unknown, stream, False) == [stream]
    untrained = bridge_stream._Resumed(tmp_path / "run", 0)
    assert bridge_stream._go_on(untrained, stream, False) == [stream]
