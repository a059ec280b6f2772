# SPDX-License-Identifier: Apache-2.0
"""Builds the native core. Metadata and settings are in pyproject.toml.

MEGATRON_PACKING_WERROR=1 turns compiler warnings into errors, as CI does.
MEGATRON_PACKING_SANITIZE=1 builds for tools/sanitize.sh, with checks of memory and arithmetic.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

WARNINGS = ["-Wall", "-Wextra"]
if os.environ.get("MEGATRON_PACKING_WERROR") == "1":
    WARNINGS.append("-Werror")

SANITIZERS = []
if os.environ.get("MEGATRON_PACKING_SANITIZE") == "1":
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]

ParallelCompile("MEGATRON_PACKING_BUILD_JOBS", default=0).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "megatron_packing._core",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.hpp")),
            cxx_std=17,
            # Contracted multiplications would give other prices, so other plans, on other machines.
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread", *WARNINGS, *SANITIZERS],
            extra_link_args=["-pthread", *SANITIZERS],
        )
    ]
)
