# SPDX-License-Identifier: Apache-2.0
"""The settings of a plan, and the flags that give them."""

from __future__ import annotations

import ast
import inspect
import shlex
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from megatron_packing.errors import SettingError, doubled_braces
from megatron_packing.planning.strategies import Strategy, describe_strategies

Overlong = Literal["error", "drop", "truncate", "split"]
Effort = Literal["default", "high"]

OVERLONG: tuple[Overlong, ...] = get_args(Overlong)
EFFORTS: tuple[Effort, ...] = get_args(Effort)

# An added field is a flag of every command that plans, and a field of the manifest. Indexes made
# before have its default.


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """Everything that decides a plan, apart from the lengths of the documents.

    The text below each field is the help of its flag.

    Raises:
        SettingError: A strategy, effort or overlong is unknown. The core checks the numbers.
    """

    sequence_length: int
    """Positions in a row."""
    strategy: Strategy = "optimal"
    """How packs are planned."""
    effort: Effort = "default"
    """How long ``optimal`` looks for better packs where it has not met the lower bound: about
    2 seconds by default, 20 with ``high``, at most."""
    alignment: int = 1
    """Each document takes a multiple of this many positions in its row."""
    max_documents_per_pack: int | None = None
    """The most documents in a pack."""
    overlong: Overlong = "error"
    """What happens to documents longer than a row. ``split`` cuts them into full rows and packs the
    rest (arXiv 2404.10830)."""
    min_packs: int = 0
    """Divide packs until there are this many."""
    packs_multiple_of: int = 1
    """Divide packs until their number is a multiple of this, such as the global batch size."""
    seed: int = 0
    """Decides which documents meet in a pack: any integer from 0 to 2**64 - 1."""

    def __post_init__(self) -> None:
        for name, choices in _choices().items():
            if (value := getattr(self, name)) not in choices:
                raise SettingError(
                    f"{{{name}}} is {doubled_braces(repr(value))}; use {', '.join(choices[:-1])} "
                    f"or {choices[-1]}"
                )

    @classmethod
    def add_arguments(
        cls,
        parser: ArgumentParser | _ArgumentGroup,
        *,
        prefix: str = "",
        without: Collection[str] = (),
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Add a flag for each field.

        Args:
            parser: Takes the flags.
            prefix: Comes before the name of every flag: ``packing-`` gives ``--packing-strategy``.
            without: Fields that get no flag here.
            overrides: For some fields, arguments of ``add_argument`` in place of those made here.
        """
        texts = _texts()
        for field in fields(cls):
            if field.name in without:
                continue
            options: dict[str, Any] = {"help": texts.get(field.name, "")}
            if field.name == "strategy":
                options["help"] += f" {describe_strategies()}."
            if field.name in _choices():
                options["choices"] = _choices()[field.name]
            else:
                options |= {"type": int, "metavar": "N"}
            if field.default is MISSING:
                options["required"] = True
            else:
                options["default"] = field.default
            options |= (overrides or {}).get(field.name, {})
            if "required" not in options and "(default" not in options["help"]:
                default = "no limit" if options["default"] is None else options["default"]
                options["help"] = f"{options['help'].rstrip('.')} (default: {default})."
            if not prefix:  # Megatron's help has sentences, this command line's has fragments
                text = options["help"].rstrip(".")
                options["help"] = text[:1].lower() + text[1:]
            parser.add_argument(flag_of(field.name, prefix), **options)

    @classmethod
    def from_arguments(cls, args: Namespace, *, prefix: str = "", **given: Any) -> PlanSettings:
        """Read the settings from flags that ``add_arguments`` added.

        Args:
            args: The parsed arguments.
            prefix: As ``add_arguments`` was given it.
            **given: Fields that come from elsewhere.
        """
        start = prefix.replace("-", "_")
        named = {
            field.name: getattr(args, start + field.name)
            for field in fields(cls)
            if field.name not in given and hasattr(args, start + field.name)
        }
        return cls(**named | given)

    def command(self, prefixes: str, documents: range | None = None) -> str:
        """The command that makes an index of this plan, for messages.

        Args:
            prefixes: Of the corpora, as ``--data-path`` takes them: separated by commas.
            documents: Only these, as ``--split`` chooses; None: all.
        """
        words = ["megatron-packing", "pack", *prefixes.split(",")]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += [flag_of(field.name), str(value)]
        if documents is not None:
            words += ["--documents", f"{documents.start}:{documents.stop}"]
        return f"{shlex.join(words)} --output DIR"


def flag_of(field: str, prefix: str = "") -> str:
    """The flag of an argument or a field by its name in Python: ``--min-packs``."""
    return f"--{prefix}{field.replace('_', '-')}"


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """The values of each field that is one of several strings."""
    types = get_type_hints(PlanSettings)
    return {name: get_args(kind) for name, kind in types.items() if get_origin(kind) is Literal}


@cache
def _texts() -> dict[str, str]:
    """The text below each field; nothing where Python runs without source files."""
    try:
        (settings,) = ast.parse(inspect.getsource(PlanSettings)).body
    except OSError:
        return {}
    assert isinstance(settings, ast.ClassDef)
    texts, name = {}, None
    for statement in settings.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            texts[name] = " ".join(str(statement.value.value).replace("``", "").split())
        else:
            name = None
    return texts
