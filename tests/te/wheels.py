# SPDX-License-Identifier: Apache-2.0
"""Installs the wheels of requirements/transformer_engine.txt, each into a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT
from tests.pinned import pinned_folder

REQUIREMENTS = ROOT / "requirements" / "transformer_engine.txt"
_LINES = {
    version: line
    for line, version in re.findall(
        r"^(transformer-engine==(\S+) .+)$", REQUIREMENTS.read_text(), re.M
    )
}
RELEASES: tuple[str, ...] = tuple(_LINES)
"""The newest tested release, then the oldest supported one."""


def wheel_folder(release: str) -> Path:
    """Return the folder with an installed release; install it first if it is not there.

    Raises:
        NotInstalledError: pip cannot install it.
    """
    return pinned_folder(_LINES[release])
