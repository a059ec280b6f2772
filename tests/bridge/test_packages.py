# SPDX-License-Identifier: Apache-2.0
"""What Megatron-Bridge wants can be installed beside this project."""

from __future__ import annotations

from importlib.metadata import requires

import pytest

pytest.importorskip("packaging")

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.bridge.conftest import needs_bridge

# Of this project's extras, those of its developers, whose lock has other versions.
DEVELOPERS = {"dev", "benchmark", "example-data"}


def wanted(distribution: str) -> dict[str, list[Requirement]]:
    """By package: what a user's install asks for."""
    found: dict[str, list[Requirement]] = {}
    for text in requires(distribution) or ():
        requirement = Requirement(text)
        if not any(f'extra == "{extra}"' in text for extra in DEVELOPERS):
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@needs_bridge
def test_each_package_that_both_want_has_a_release_that_both_take():
    ours, theirs = wanted("megatron-packing"), wanted("megatron-bridge")
    shared = ours.keys() & theirs.keys()
    assert "transformers" in shared
    for name in shared:
        both = [requirement.specifier for requirement in (*ours[name], *theirs[name])]
        # The bounds that are named are releases; without any every release is taken.
        bounds = [one.version for specifier in both for one in specifier]
        assert not bounds or any(
            all(specifier.contains(bound) for specifier in both) for bound in bounds
        ), name
