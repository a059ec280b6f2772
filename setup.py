# SPDX-License-Identifier: Apache-2.0
"""Builds the native core. Metadata and settings are in pyproject.toml.

MEGATRON_PACKING_WERROR=1 turns compiler warnings into errors, as CI does.
MEGATRON_PACKING_SANITIZE=address,undefined builds for tools/sanitize.sh, with checks of memory and
arithmetic (or thread).
"""

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

WARNINGS = ["-Wall", "-Wextra"]
if os.environ.get("MEGATRON_PACKING_WERROR") == "1":
    WARNINGS.append("-Werror")

SANITIZERS = []
if kinds := os.environ.get("MEGATRON_PACKING_SANITIZE"):
    SANITIZERS = [f"-fsanitize={kinds}", "-fno-sanitize-recover=all", "-g", "-O1"]

# A strategy is added in C++ alone: type checkers learn its name from its row of the table.
ROWS = Path("csrc/strategies/table.cpp").read_text(encoding="utf-8")
NAMES = "".join(f'    "{name}",\n' for name in re.findall(r'^ {6}\{"(\w+)", k', ROWS, re.MULTILINE))
if not NAMES:
    raise SystemExit("error: setup.py finds no row in csrc/strategies/table.cpp; mend its pattern")
STRATEGY_TYPE = f'''# SPDX-License-Identifier: Apache-2.0
"""The names in csrc/strategies/table.cpp, for type checkers. Written by setup.py: do not edit."""

from typing import Literal, TypeAlias

Strategy: TypeAlias = Literal[
{NAMES}]
'''
strategy_type = Path("megatron_packing/_strategy.py")
if not strategy_type.exists() or strategy_type.read_text(encoding="utf-8") != STRATEGY_TYPE:
    strategy_type.write_text(STRATEGY_TYPE, encoding="utf-8")

ParallelCompile("MEGATRON_PACKING_BUILD_JOBS", default=0).install()


class BuildCore(build_ext):
    """Builds the core, or says in one sentence what is missing for it."""

    def build_extensions(self):
        """Try the compiler before the long build."""
        compiler = self.compiler.compiler_so_cxx[0]
        if shutil.which(compiler) is None:
            raise missing(f"no C++ compiler was found ({compiler})", "install g++, or set CXX")
        if not self._compiles("#include <charconv>"):
            raise missing(
                f"{compiler} does not compile C++17", "install g++ 9 or later, or set CXX"
            )
        if not self._compiles("#include <Python.h>"):
            package = "python{}.{}-dev".format(*sys.version_info[:2])
            folder = sysconfig.get_path("include")
            raise missing(f"Python.h is not in {folder}", f"install Python's headers ({package})")
        super().build_extensions()

    def _compiles(self, line):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "tried.cpp")
            source.write_text(f"{line}\n", encoding="utf-8")
            try:
                self.compiler.compile([str(source)], folder, extra_postargs=["-std=c++17"])
            except CompileError:
                return False
        return True


def missing(what, remedy):
    """The end of a build that lacks something."""
    return SystemExit(
        f"error: megatron-packing is compiled when it is installed from source, but {what}; "
        f"{remedy}, or install a wheel, which needs no compiler"
    )


setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Pybind11Extension(
            "megatron_packing._core",
            sorted(str(path) for path in Path("csrc").rglob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").rglob("*.hpp")),
            include_dirs=["csrc"],
            cxx_std=17,
            # Contracted multiplications would give other prices, so other plans, on other machines.
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread", *WARNINGS, *SANITIZERS],
            extra_link_args=["-pthread", *SANITIZERS],
        )
    ],
)
