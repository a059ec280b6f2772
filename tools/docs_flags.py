# SPDX-License-Identifier: Apache-2.0
"""Adds the page flags.md to the documentation: all flags, as their parsers have them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_packing.cli import COMMANDS, make_parser
from megatron_packing.megatron.arguments import add_packing_arguments

_INTRODUCTION = (
    "This page is generated from the parsers. `--help` prints the same in a terminal. Every "
    "command also takes `--json FILE`, which writes the results as JSON; `-` is standard output."
)
_PRETRAIN = (
    "`add_packing_arguments` adds these flags to Megatron's own. The settings of a plan are those "
    "of `pack`. `--seq-length`, `--seed` and the global batch size are Megatron's."
)
_OF_ALL_COMMANDS = {"-h", "--json", "--version"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "flags.md", content="\n".join(page_lines())))
    return files


def page_lines() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# All flags"
    yield ""
    yield _INTRODUCTION
    _, verbs = make_parser()
    for name, verb in verbs.items():
        module = COMMANDS[name]
        yield from ("", f"## megatron-packing {name}", "", f"{_sentence(module.HELP)}")
        yield from ("", "```sh", module.EXAMPLE, "```", "")
        yield from _table(verb)
        yield from ("", "Keys of `--json`:", "")
        yield from (f"- `{key}`: {_escaped(about)}" for key, about in module.JSON_KEYS.items())
    yield from ("", "## The pretrain script", "")
    yield _PRETRAIN
    yield ""
    parser = add_packing_arguments(argparse.ArgumentParser(add_help=False))
    yield from _table(parser)
    yield ""


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("| flag | meaning |", "| --- | --- |")
    for action in parser._actions:
        if _OF_ALL_COMMANDS & set(action.option_strings) or action.help == argparse.SUPPRESS:
            continue
        yield f"| {_invocation(action)} | {_meaning(parser, action)} |"


def _invocation(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        value = ", ".join(f"`{choice}`" for choice in map(str, action.choices))
        return f"`{', '.join(action.option_strings)}`: {value}".removeprefix("``: ")
    formatter = argparse.HelpFormatter("")
    value = formatter._format_args(action, (action.dest if action.option_strings else "").upper())
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if not action.option_strings:
        return f"`{value.strip() or name}`"
    return f"`{name} {value}`".replace(" `", "`") if action.nargs != 0 else f"`{name}`"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action)
    return _escaped(_sentence(text)) + (" Required." if action.required else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _escaped(text: str) -> str:
    text = re.sub(r"\s+", " ", text).replace("|", r"\|").replace("*", r"\*")
    text = text.replace("<", "&lt;")
    return re.sub(r"(?<![`\w\\])(--[a-z][\w-]*|[\w/]+_[\w/]+(?:[.=][\w/]+)*)", r"`\1`", text)
