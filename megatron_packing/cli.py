"""The command ``megatron-packing``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

import megatron_packing
from megatron_packing.commands import (
    compare,
    export,
    import_packed,
    pack,
    show,
    tokenize,
    verify,
)
from megatron_packing.errors import InputError

COMMANDS: dict[str, ModuleType] = {
    "tokenize": tokenize,
    "compare": compare,
    "pack": pack,
    "show": show,
    "verify": verify,
    "export": export,
    "import": import_packed,
}


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="megatron-packing", description="Sequence packing for Megatron-style trainers."
    )
    parser.add_argument("--version", action="version", version=megatron_packing.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for bad input, 130 for Ctrl-C."""
    args = make_parser().parse_args(arguments)
    try:
        args.run(args)
    except (InputError, ValueError, OverflowError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted; nothing was written", 130)
    return 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"megatron-packing: error: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
