# SPDX-License-Identifier: Apache-2.0
"""Elements are those that the JSON parser finds, wherever the file is cut into blocks."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.records import json_array
from megatron_packing.records.json_array import read_elements

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['"', "\\", '\\"', "]}"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture(scope="module", params=[1, 3, 1 << 16])
def block_bytes(request):
    before = json_array._BLOCK_BYTES
    json_array._BLOCK_BYTES = request.param
    yield request.param
    json_array._BLOCK_BYTES = before


pytestmark = pytest.mark.usefixtures("block_bytes")


@given(values=st.lists(VALUES), indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_elements_are_the_parsers(values, indent, ascii_only):
    text = "\n " + json.dumps(values, indent=indent, ensure_ascii=ascii_only) + "\n"
    elements = list(read_elements(io.BytesIO(text.encode()), 1 << 20))
    assert [json.loads(element) for element in elements] == values


@given(values=st.lists(VALUES, min_size=1), limit=st.integers(1, 30))
def test_long_elements_are_told_by_their_lengths(values, limit):
    texts = [json.dumps(value).encode() for value in values]
    elements = list(read_elements(io.BytesIO(b"[" + b",".join(texts) + b"]"), limit))
    assert elements == [text if len(text) <= limit else len(text) for text in texts]


@given(values=st.lists(VALUES, min_size=1), share=st.floats(0, 0.99))
def test_an_array_that_is_cut_off_gives_what_was_whole(values, share):
    text = json.dumps(values).encode()
    elements = read_elements(io.BytesIO(text[: int(len(text) * share)]), 1 << 20)
    found = []
    with pytest.raises(EOFError, match="does not end"):
        found.extend(json.loads(element) for element in elements)
    assert found == values[: len(found)]


@pytest.mark.parametrize("text", [b"[1] 2", b"[1]\n[2]", b"[] x"])
def test_what_follows_an_array_is_an_error(text):
    with pytest.raises(ValueError, match="something follows the array"):
        list(read_elements(io.BytesIO(text), 1 << 20))
