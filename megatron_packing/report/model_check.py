# SPDX-License-Identifier: Apache-2.0
"""Prints what the check of a model found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from megatron_packing.counted import counted
from megatron_packing.isolation.result import Finding, ModelCheck, Outcome

_WORDS: dict[Outcome, str] = {
    "apart": "apart",
    "leaks": "see each other",
    "place": "depend on place",
    "refused": "refused",
    "absent": "not there",
}


_LAYERS = {
    "local": "Megatron's local layers",
    "transformer_engine": "the layers of Transformer Engine",
    "own": "layers of your own",
}
"""What models of Megatron have."""


def describe_model_check(check: ModelCheck, *, as_is: bool) -> Group:
    """Lay out a table, and what it means.

    Args:
        check: What was found.
        as_is: Whether the model kept its size.
    """
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in ("rows", "attention", "documents"):
        table.add_column(heading, no_wrap=True)
    for heading in ("moved", "alone", "gradient"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in check.findings:
        figures = (one.moved, one.alone, one.gradient)
        ran = one.outcome not in ("refused", "absent")
        table.add_row(
            one.rows,
            one.attention,
            _WORDS[one.outcome],
            *(_short(figure) if ran else "" for figure in figures),
        )
    kinds = ", ".join(check.kinds)
    title = (
        f"{check.model}, {'as it is' if as_is else 'built small'}: "
        f"{counted(check.num_layers, 'layer')} ({kinds}), {check.num_parameters:,} parameters"
    )
    legend = (
        "moved: by how much losses moved when other documents changed; alone: by how much they "
        "differ from those of documents alone in a row; gradient: the largest share of a "
        "document's gradient that another one got"
    )
    return Group(title, table, legend, *_sentences(check))


def describe_fault(check: ModelCheck) -> str:
    """Return the sentence of the first fault: what to do, too."""
    fault = check.faults[0]
    apart = [one for one in check.findings if one.outcome == "apart"]
    same = [one for one in apart if one.attention == fault.attention]
    best = next(iter(same or apart), None)
    advice = (
        f"train with rows told as {best.rows} and {best.attention}, where documents are apart"
        if best is not None
        else "do not train it on packed rows in this way"
    )
    how = _LAYERS.get(fault.attention, f"rows told as {fault.rows} and {fault.attention}")
    return (
        f"{check.model} does not keep documents apart with {how}: {fault.fault}: likely "
        f"{fault.cause}; {advice}"
    )


def model_check_record(check: ModelCheck) -> dict[str, Any]:
    """Return the record for ``--json``."""
    return {
        "model": check.model,
        "num_layers": check.num_layers,
        "num_parameters": check.num_parameters,
        "kinds": list(check.kinds),
        "stand_ins": list(check.stand_ins),
        "remarks": list(check.remarks),
        "apart": not check.faults,
        "findings": [
            {name: getattr(one, name) for name in Finding.__dataclass_fields__}
            for one in check.findings
        ],
    }


def _short(figure: float) -> str:
    """Write a figure, and of rounding only that it is small."""
    if figure == 0:
        return "0"
    return f"{figure:.1e}" if figure >= 1e-5 else "<1e-05"


def _sentences(check: ModelCheck) -> Iterator[str]:
    """Say where documents meet and why, what was refused, and what was not run."""
    said: dict[str, dict[str, list[str]]] = {}
    for one in check.findings:
        if one.outcome in ("leaks", "place"):
            sentence = f"first in {one.layer}, likely {one.cause}"
        elif one.outcome in ("refused", "absent"):
            sentence = one.fault
        else:
            continue
        said.setdefault(sentence, {}).setdefault(one.rows, []).append(one.attention)
    for sentence, by_rows in said.items():
        where = [f"{rows} with {', '.join(attentions)}" for rows, attentions in by_rows.items()]
        yield f"{'; '.join(where)}: {sentence}."
    if check.stand_ins:
        yield (
            f"{', '.join(check.stand_ins)}: torch computed these kernels, for each document where "
            f"they get boundaries; --device cuda runs the kernels themselves."
        )
    yield from check.remarks
