# SPDX-License-Identifier: Apache-2.0
"""Drawings hold what was planned, to scale."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.page.lanes import Bar, draw_lanes
from megatron_packing.page.packs import draw_packs
from tests.conftest import chat_like_lengths

SVG = "{http://www.w3.org/2000/svg}"
ROW = 1024


def test_bars_are_to_scale_and_texts_are_escaped():
    bars = [Bar(0, 30, "a", "a <title>"), Bar(30, 70, "b", "other", "7")]
    root = ElementTree.fromstring(draw_lanes([("<lane>", bars)], total=100, title="a & b"))
    first, second = root.iter(f"{SVG}rect")
    widths = [float(bar.attrib["width"]) for bar in (first, second)]
    assert widths[1] / widths[0] == pytest.approx(70 / 30, rel=1e-3)
    end = float(first.attrib["x"]) + widths[0]
    assert float(second.attrib["x"]) == pytest.approx(end, abs=0.1)
    assert [title.text for title in root.iter(f"{SVG}title")] == ["a & b", "a <title>", "other"]
    assert [text.text for text in root.iter(f"{SVG}text")] == ["<lane>", "7"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("longest", [20, 4 * ROW])
def test_each_row_is_drawn_from_end_to_end(strategy, longest):
    lengths = chat_like_lengths(6000, longest=longest)
    plan = plan_packs(lengths, ROW, strategy=strategy, overlong="split")
    root = ElementTree.fromstring(draw_packs(plan, lengths, most=5, title="rows"))
    lanes: dict[str, list[ElementTree.Element]] = {}
    for bar in root.iter(f"{SVG}rect"):
        if bar.attrib["class"] != "k":  # lies over the piece of a document
            lanes.setdefault(bar.attrib["y"], []).append(bar)
    assert len(lanes) == min(5, plan.num_packs)
    room = 960 - 60
    for bars in lanes.values():
        assert len(bars) <= 250
        at = 60.0
        for bar in bars:
            assert float(bar.attrib["x"]) == pytest.approx(at, abs=0.11)
            at = float(bar.attrib["x"]) + float(bar.attrib["width"])
        assert at == pytest.approx(60 + room, abs=0.11)
        kinds = [bar.attrib["class"] for bar in bars]
        assert all(one != other for one, other in pairwise(kinds))
    pieces = 0
    for pack in range(min(5, plan.num_packs)):
        places = np.arange(plan.pack_offsets[pack], plan.pack_offsets[pack + 1])
        if plan.segment_lengths is not None:
            pieces += int((plan.segment_lengths[places] < lengths[plan.document_ids[places]]).sum())
    assert sum(bar.attrib["class"] == "k" for bar in root.iter(f"{SVG}rect")) == pieces
