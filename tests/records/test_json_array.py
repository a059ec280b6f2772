# SPDX-License-Identifier: Apache-2.0
"""Elements and objects are those of the JSON parser, however the file is read in blocks."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_packing.records import json_array
from megatron_packing.records.json_array import read_elements, read_objects

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


@pytest.mark.slow
@given(values=st.lists(VALUES, min_size=1), limit=st.integers(1, 30))
def test_long_elements_are_told_by_their_lengths(values, limit):
    texts = [json.dumps(value).encode() for value in values]
    elements = list(read_elements(io.BytesIO(b"[" + b",".join(texts) + b"]"), limit))
    assert elements == [text if len(text) <= limit else len(text) for text in texts]


@pytest.mark.slow
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


def test_white_space_before_an_array_is_not_counted_as_its_element():
    text = b" " * 100 + b"[1, 22]"
    assert list(read_elements(io.BytesIO(text), 10)) == [b"1", b" 22"]


@pytest.mark.slow
@given(
    values=st.lists(st.dictionaries(st.text(), VALUES), min_size=1),
    indent=st.sampled_from([None, 2]),
    between=st.sampled_from(["", " ", "\n", ",\n", "\ufeff"]),
    limit=st.sampled_from([10, 1 << 20]),
)
@settings(max_examples=30)
def test_objects_are_the_parsers(values, indent, between, limit):
    texts = [json.dumps(value, indent=indent).encode() for value in values]
    found = list(read_objects(io.BytesIO(between.encode().join(texts)), limit))
    assert found == [text if len(text) <= limit else len(text) for text in texts]


def test_an_object_that_is_cut_off_gives_those_before_it():
    objects = read_objects(io.BytesIO(b'{"a": 1}\n{"b": [2'), 1 << 20)
    assert next(objects) == b'{"a": 1}'
    with pytest.raises(EOFError, match="ends within an object"):
        next(objects)


def test_text_between_objects_is_given_to_the_parser():
    texts = [b'{"a": 1}', b'"word"', b"{}", b"end"]
    found = read_objects(io.BytesIO(b"\n".join(texts)), 1 << 20)
    assert [bytes(text).strip() for text in found] == texts
