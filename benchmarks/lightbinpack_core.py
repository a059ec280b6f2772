# SPDX-License-Identifier: Apache-2.0
"""Builds lightbinpack's C++ function apart from its Python module, to time it alone.

Its source is fetched with pip, compiled with the options of its own build and called on a vector
that is there already, so neither reading Python's list nor building one is counted.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

VERSION = "0.1.1"
_TIMER = """
#include "{source}"
#include <chrono>
extern "C" double seconds_of(const int* lengths, long size, int row) {{
  const std::vector<int> input(lengths, lengths + size);
  const auto started = std::chrono::steady_clock::now();
  const auto packs = obfd(input, row, -1);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - started;
  return packs.empty() ? -1 : spent.count();
}}
"""


def build(folder: Path) -> Callable[[NDArray[Any], int], float] | None:
    """Build in ``folder``; a function of int32 lengths and row that gives seconds, or None."""
    try:
        import pybind11

        subprocess.run(
            f"{sys.executable} -m pip download --quiet --no-deps --no-binary :all: --dest {folder} "
            f"lightbinpack=={VERSION}".split(),
            check=True,
            capture_output=True,
        )
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (source,) = folder.glob("*/lightbinpack/cpp/obfd.cpp")
        timer = folder / "timer.cpp"
        timer.write_text(_TIMER.format(source=source))
        library = folder / "timer.so"
        subprocess.run(
            f"g++ -O3 -march=native -ffast-math -fopenmp -std=c++17 -fPIC -shared {timer} "
            f"-I{pybind11.get_include()} -I{sysconfig.get_paths()['include']} -o {library}".split(),
            check=True,
            capture_output=True,
        )
    except (ImportError, OSError, ValueError, subprocess.CalledProcessError):
        return None
    seconds_of = ctypes.CDLL(str(library)).seconds_of
    seconds_of.restype = ctypes.c_double
    seconds_of.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    return lambda lengths, row: float(seconds_of(lengths.ctypes.data, len(lengths), row))
