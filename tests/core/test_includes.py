# SPDX-License-Identifier: Apache-2.0
"""The files of the core include what is below them, and nothing else."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

CSRC = ROOT / "csrc"
LAYERS = ("base", "types", "optimal", "strategies", "step", "", "bindings.cpp")
"""From the ground up: folders, the files beside them, and the bindings."""
FILES = sorted(path.relative_to(CSRC) for path in CSRC.rglob("*.[ch]pp"))


def layer(file) -> int:
    return LAYERS.index(file.name if file.name in LAYERS else file.parent.as_posix().strip("."))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_includes_only_its_own_layer_and_those_below(file):
    text = (CSRC / file).read_text(encoding="utf-8")
    for name in re.findall(r'^#include "(.+)"$', text, re.MULTILINE):
        (included,) = [other for other in FILES if other.as_posix() == name]
        assert layer(included) <= layer(file)


def test_only_the_bindings_know_python():
    texts = {file.name: (CSRC / file).read_text(encoding="utf-8") for file in FILES}
    knowing = {name for name, text in texts.items() if "pybind11" in text or "Python.h" in text}
    assert knowing == {"bindings.cpp"}


def test_every_file_says_first_what_it_is_for():
    for file in FILES:
        license_line, purpose, *_ = (CSRC / file).read_text(encoding="utf-8").splitlines()
        assert license_line.startswith("// SPDX")
        assert re.match("// [A-Z]", purpose), file
