# SPDX-License-Identifier: Apache-2.0
"""Reports missing packages that this project never installs, such as torch and Megatron."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

from megatron_packing.errors import InputError


class MissingPackageError(InputError, ModuleNotFoundError):
    """A package that this project does not install is missing.

    It is also an ``ImportError``, for programs that treat the module as optional.
    """


def require(module: str, package: str, requirement: str) -> None:
    """Raise an error if a module is missing.

    The module is looked up but not imported, so an error inside it is not hidden.

    Args:
        module: The module's full name.
        package: The name of its distribution.
        requirement: The requirement to install with pip if no image provides it.

    Raises:
        MissingPackageError: The module is missing.
    """
    if sys.modules.get(module) is not None:
        return
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = False
    if not found:
        absent = MissingPackageError(
            f"this needs {package} (module {module}), which is not installed for {sys.executable}: "
            f"use NVIDIA's image that has it, in a virtual environment made with "
            f"--system-site-packages, or install it with: pip install '{requirement}'"
        )
        absent.name = module
        raise absent


def end_script_without(*names: str) -> None:
    """Exit with a one-sentence error if a package is missing.

    A script calls this before it imports the packages itself.

    Args:
        names: Modules of ``megatron_packing.needs``, such as ``megatron_core``.
    """
    for name in names:
        try:
            importlib.import_module(f"megatron_packing.needs.{name}")
        except MissingPackageError as error:
            sys.exit(f"error: {error}")
