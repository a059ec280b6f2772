# SPDX-License-Identifier: Apache-2.0
"""Runs a training script: prints help, raises limits, reports wrong input in one line."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import add_packing_arguments
from megatron_packing.megatron.plain_errors import tell_torchrun


def run_training(main: Callable[[], None]) -> None:
    """Run a training script's ``main``.

    ``--help`` prints the help of all flags. Wrong input ends the process with a one-sentence error
    instead of a traceback, and torchrun repeats that sentence at its end.

    Args:
        main: Function that parses the arguments and trains.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(all_help())
        return
    raise_open_files_limit()
    use_compiled_helpers()
    try:
        main()
    except InputError as error:
        tell_torchrun(f"error: {error}")
        sys.exit(f"error: {error}")


def use_compiled_helpers() -> None:
    """Let Megatron use the compiled dataset helpers of its wheel.

    The trainer runs ``make`` to compile them and exits if that fails. The wheel has the compiled
    helpers and no Makefile. A checkout has a Makefile; nothing changes there.
    """
    import megatron.core.datasets
    import megatron.core.datasets.utils

    folder = Path(megatron.core.datasets.__path__[0])
    if find_spec("megatron.core.datasets.helpers_cpp") and not (folder / "Makefile").exists():
        megatron.core.datasets.utils.compile_helpers = lambda: None


def all_help() -> str:
    """Return the help of Megatron's flags followed by the packing flags.

    Megatron's own ``--help`` fails on percent signs in its help texts.
    """
    from megatron.training.arguments import add_megatron_arguments

    parser = argparse.ArgumentParser(usage="%(prog)s [FLAG...]", allow_abbrev=False)
    add_packing_arguments(add_megatron_arguments(parser))
    formatter = parser._get_formatter()
    for action in parser._actions:
        try:
            formatter._expand_help(action)
        except (KeyError, TypeError, ValueError):
            action.help = (action.help or "").replace("%", "%%")
    return parser.format_help()


def raise_open_files_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each corpus opens several files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems allow less than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
