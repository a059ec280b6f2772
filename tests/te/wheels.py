# SPDX-License-Identifier: Apache-2.0
"""Installs the wheels of requirements/transformer_engine.txt, each into a folder of its own.

The folders are in the cache of tools/make_environment.sh, so all checkouts share them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

REQUIREMENTS = ROOT / "requirements" / "transformer_engine.txt"
_LINE = re.compile(r"^transformer-engine==(\S+) --hash=sha256:(\w+)$", re.M)
RELEASES: tuple[str, ...] = tuple(version for version, _ in _LINE.findall(REQUIREMENTS.read_text()))
"""The newest tested release, then the oldest supported one."""


class NoWheelError(Exception):
    """The wheel of a release cannot be installed."""


def wheel_folder(release: str) -> Path:
    """Return the folder with an installed release; install it first if it is not there.

    Raises:
        NoWheelError: pip cannot install it.
    """
    line, digest = next(
        (match[0], match[2])
        for match in _LINE.finditer(REQUIREMENTS.read_text())
        if match[1] == release
    )
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    cache = Path(os.environ.get("MEGATRON_PACKING_CACHE", Path(home) / "megatron-packing"))
    folder = cache / f"transformer-engine-{digest[:16]}" / release
    if (folder / "complete").exists():
        return folder
    unfinished = folder.with_name(f"{release}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    (unfinished / "requirement.txt").write_text(f"{line}\n")
    command = f"-m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: \
        --require-hashes --target {unfinished} --requirement {unfinished}/requirement.txt"
    result = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, timeout=240
    )
    if result.returncode:
        shutil.rmtree(unfinished)
        raise NoWheelError(
            f"the tests need the wheel of Transformer Engine {release}, but pip cannot install it: "
            f"{result.stderr.strip().splitlines()[-1]}"
        )
    (unfinished / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return folder
