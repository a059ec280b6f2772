# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest


@pytest.fixture
def environment():
    """Variables that clients of the store read."""
    return {}


@pytest.fixture
def store(environment, monkeypatch):
    """An S3 whose address is in the environment of this process and in ``environment``."""
    from tests.records.object_store import object_store  # moto is not everywhere

    def set_variable(name, value):
        environment[name] = value
        monkeypatch.setenv(name, value)

    with object_store(set_variable) as store:
        yield store
