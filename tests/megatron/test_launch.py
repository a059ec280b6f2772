# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import megatron.core.datasets
import megatron.core.datasets.utils

from megatron_packing.megatron.launch import use_compiled_helpers


def never():
    raise AssertionError("make was run")


@pytest.mark.skipif(
    Path(megatron.core.datasets.__path__[0], "Makefile").exists(), reason="Megatron is a checkout"
)
def test_the_helpers_in_megatrons_wheel_are_used(monkeypatch):
    monkeypatch.setattr(megatron.core.datasets.utils, "compile_helpers", never)
    use_compiled_helpers()
    megatron.core.datasets.utils.compile_helpers()


def test_a_checkout_of_megatron_compiles_its_helpers(monkeypatch, tmp_path):
    (tmp_path / "Makefile").touch()
    monkeypatch.setattr(megatron.core.datasets, "__path__", [str(tmp_path)])
    monkeypatch.setattr(megatron.core.datasets.utils, "compile_helpers", never)
    use_compiled_helpers()
    with pytest.raises(AssertionError, match="make was run"):
        megatron.core.datasets.utils.compile_helpers()
