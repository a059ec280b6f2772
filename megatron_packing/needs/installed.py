# SPDX-License-Identifier: Apache-2.0
"""Looks for the packages that an image or the user installs, never this project."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

from megatron_packing.errors import InputError


class MissingPackageError(InputError, ModuleNotFoundError):
    """A package that this project does not install is missing.

    It is an ``ImportError`` too, for programs that do without a module that cannot be imported.
    """


def require(module: str, package: str, requirement: str) -> None:
    """Refuse to go on without a module.

    It is looked for and not imported, so that an error inside it shows as it is.

    Args:
        module: What is imported, with dots.
        package: What its distribution is called.
        requirement: What pip is to be given where there is no image that has it.

    Raises:
        MissingPackageError: The module is not there.
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
            f"this needs {package} (module {module}), which {sys.executable} does not have and "
            f"megatron-packing never installs: use NVIDIA's image that has it, in a virtual "
            f"environment made with --system-site-packages, or install it with: "
            f"pip install '{requirement}'"
        )
        absent.name = module
        raise absent


def end_script_without(*names: str) -> None:
    """End the process with one sentence where a package is missing.

    A script calls this before it imports the packages itself.

    Args:
        names: Modules of ``megatron_packing.needs``, such as ``megatron_core``.
    """
    for name in names:
        try:
            importlib.import_module(f"megatron_packing.needs.{name}")
        except MissingPackageError as error:
            sys.exit(f"error: {error}")
