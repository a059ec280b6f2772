# SPDX-License-Identifier: Apache-2.0
"""How a training script starts, and how it ends where its input is wrong."""

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

    ``--help`` prints the help of all flags. Wrong input ends the process with one sentence instead
    of a traceback; torchrun repeats it in its own last words.

    Args:
        main: Parses the arguments and trains.
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
    """Let Megatron use the dataset helpers that its wheel holds.

    The trainer runs ``make`` for them and ends where that fails. The wheel has the compiled helpers
    and no Makefile; a checkout has a Makefile, and there nothing changes.
    """
    import megatron.core.datasets
    import megatron.core.datasets.utils

    folder = Path(megatron.core.datasets.__path__[0])
    if find_spec("megatron.core.datasets.helpers_cpp") and not (folder / "Makefile").exists():
        megatron.core.datasets.utils.compile_helpers = lambda: None


def all_help() -> str:
    """The help of Megatron's flags and, last, those of packing.

    Megatron's own ``--help`` fails on percent signs in its texts.
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
    """Raise the soft limit of open files to the hard one: a corpus takes several files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
