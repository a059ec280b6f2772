# SPDX-License-Identifier: Apache-2.0
"""The command ``megatron-packing``."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import megatron_packing
from megatron_packing.errors import FaultError, InputError, SettingError

try:
    from megatron_packing.commands import (
        check_model,
        compare,
        export,
        import_packed,
        pack,
        probe,
        report,
        show,
        simulate,
        tokenize,
        verify,
    )
    from megatron_packing.commands.completion import complete
    from megatron_packing.commands.parser import Parser
    from megatron_packing.corpus.storage import corpus_path, is_remote
    from megatron_packing.report.console import close_standard_output
    from megatron_packing.report.json_output import JsonOutput
    from megatron_packing.report.visible import visible_line
except KeyboardInterrupt:
    sys.stderr.write("megatron-packing: error: interrupted; nothing was written\n")
    sys.exit(130)
except ModuleNotFoundError as error:  # installed with --no-deps
    package = (error.name or "").partition(".")[0]
    if package not in ("numpy", "rich", "markdown_it", "mdurl", "pygments"):
        raise
    package = package.replace("_it", "-it-py")
    sys.exit(
        f"megatron-packing: error: {package} is not installed; install it with: "
        f"pip install --no-deps {package}"
    )

COMMANDS: dict[str, ModuleType] = {
    "tokenize": tokenize,
    "compare": compare,
    "report": report,
    "simulate": simulate,
    "pack": pack,
    "show": show,
    "verify": verify,
    "export": export,
    "import": import_packed,
    "probe": probe,
    "check-model": check_model,
}
FIRST_STEPS = """\
usage: megatron-packing COMMAND ...

With conversations in chat.jsonl and the folder of your model's tokenizer, start with:
  megatron-packing tokenize chat.jsonl --output-prefix data/chat --tokenizer TOKENIZER_FOLDER
  megatron-packing compare data/chat --sequence-length 4096 --overlong split
  megatron-packing pack data/chat --sequence-length 4096 --overlong split --output data/packs
  megatron-packing show data/packs --pack 0
Then train on data/packs with Megatron or Megatron-Bridge, as the README says.

megatron-packing --help lists all commands; megatron-packing COMMAND --help explains one.
"""
_KEYS = frozenset(key for module in COMMANDS.values() for key in module.JSON_KEYS)
_BROKEN_PIPE = 141  # as shells report a process that SIGPIPE ended


def make_parser() -> tuple[Parser, Mapping[str, Parser]]:
    """The whole command line, and the parser of each verb."""
    parser = Parser(
        prog="megatron-packing",
        description="Sequence packing for Megatron-style trainers.",
        epilog="megatron-packing alone shows the first steps.\n"
        "megatron-packing COMMAND --help has an example, all flags and their defaults.\n\n"
        "To complete commands in the shell, install megatron-packing[completion] and add this to\n"
        '~/.bashrc or ~/.zshrc:  eval "$(register-python-argcomplete megatron-packing)"',
    )
    version = f"%(prog)s {megatron_packing.__version__}"
    parser.add_argument("--version", action="version", version=version)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verbs = {}
    for name, module in COMMANDS.items():
        verb = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=_epilog(module)
        )
        module.add_arguments(verb)
        verb.add_argument(
            "--json",
            type=Path,
            metavar="FILE",
            help="write the results there too, as JSON; - writes them, and nothing else, to "
            "standard output (default: no JSON)",
        )
        verb.set_defaults(run=module.run, flags=frozenset(verb.flags))
        verbs[name] = verb
    return parser, verbs


def _epilog(module: ModuleType) -> str:
    indent = max(map(len, module.JSON_KEYS)) + 4
    width = max(shutil.get_terminal_size().columns - 2, indent + 20)
    keys = "\n".join(
        textwrap.fill(f"  {key:{indent - 2}}{about}", width, subsequent_indent=" " * indent)
        for key, about in module.JSON_KEYS.items()
    )
    return f"example:\n  {module.EXAMPLE}\n\nkeys of --json:\n{keys}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0, 1 for bad input, 130 for Ctrl-C and 141 where the reader of standard output has ended.
    Wrong usage exits with 2.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stand-in of a test or of a notebook
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser, verbs = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        complete(parser)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.exit(2, FIRST_STEPS)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        verbs[args.command].refuse(unknown)
    try:
        return _run(args)
    except BrokenPipeError:
        close_standard_output()
        return _BROKEN_PIPE


def _run(args: Namespace) -> int:
    try:
        _refuse_empty(args)
        _refuse_addresses(args)
        output = JsonOutput(args.json, _KEYS)
        with output.alone_on_standard_output():
            try:
                record = args.run(args)
            except FaultError as error:
                output.write(error.record)
                raise
        output.write(record)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except SettingError as error:
        return _fail(error.naming(lambda field: _flag(field, args) or field), 1)
    except (InputError, ValueError, OverflowError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except MemoryError as error:
        return _fail(f"there is not enough memory ({str(error) or 'MemoryError'})", 1)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted; nothing was written", 130)
    return 0


def _refuse_empty(args: Namespace) -> None:
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            what = _flag(name, args) or f"one of the {name}"
            raise InputError(f"{what} is empty; is a variable unset?")


def _refuse_addresses(args: Namespace) -> None:
    """Refuse addresses where files of this machine are read or written; inputs are texts."""
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and is_remote(path):
                what = _flag(name, args) or f"the {name}"
                raise InputError(
                    f"{what} is the address {corpus_path(path)}; {args.command} needs a local path "
                    f"here: give one, and copy the files"
                )


def _flag(name: str, args: Namespace) -> str | None:
    flag = "--" + name.replace("_", "-")
    return flag if flag in args.flags else None


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"megatron-packing: error: {visible_line(message)}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
