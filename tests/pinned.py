# SPDX-License-Identifier: Apache-2.0
"""Installs packages by their hashes, outside the environment, for tests that import them by path.

The folders are in the cache of tools/make_environment.sh, so all checkouts share them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.limits import TIME_LIMIT


class NotInstalledError(Exception):
    """A package cannot be installed."""


def pinned_folder(
    line: str, *, options: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Path:
    """Return the folder with an installed package; install it first if it is not there.

    Args:
        line: A line of a requirements file: ``NAME==VERSION --hash=sha256:HASH``.
        options: Options of ``pip install`` beside those that all packages get. Without any, only a
            wheel is installed.
        environment: Variables for pip, beside those of this process.

    Raises:
        NotInstalledError: pip cannot install it.
    """
    name, version, digest = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:(\w{16})\w+", line).groups()
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    cache = Path(os.environ.get("MEGATRON_PACKING_CACHE", Path(home) / "megatron-packing"))
    folder = cache / f"{name}-{digest}" / version
    if (folder / "complete").exists():
        return folder
    unfinished = folder.with_name(f"{version}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    (unfinished / "requirement.txt").write_text(f"{line}\n")
    command = f"-m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
        --target {unfinished} --requirement {unfinished}/requirement.txt"
    result = subprocess.run(
        [sys.executable, *command.split(), *(options or ("--only-binary", ":all:"))],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    if result.returncode:
        shutil.rmtree(unfinished)
        raise NotInstalledError(
            f"the tests need {name} {version}, but pip cannot install it: "
            f"{result.stderr.strip().splitlines()[-1]}"
        )
    (unfinished / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return folder
