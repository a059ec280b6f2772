# SPDX-License-Identifier: Apache-2.0
"""Reads the manifest of a pack index: every field is there and is what it should be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from megatron_packing.errors import InputError
from megatron_packing.planning.settings import PlanSettings

if TYPE_CHECKING:
    from megatron_packing.index.pack_index import CorpusReference, Figures

LONGEST_ROW = 2**26
ADVICE = "copy or make the pack index again"
DTYPES: Mapping[str, tuple[str, ...]] = {
    "pack_offsets": ("<i8",),
    "document_ids": ("<i4", "<i8"),
    "places_by_length": ("<i4", "<i8"),
    "length_offsets": ("<i8",),
    "segment_starts": ("<i8",),
    "segment_lengths": ("<i8",),
}
"""The dtypes that each array may have."""
OPTIONAL_ARRAYS = ("segment_starts", "segment_lengths")

DIGEST = "manifest_sha256"
"""The manifest's own digest, which earlier releases did not write and pass over."""
PARTS = ("format", "format_version", "plan", "corpus", "figures", "arrays")

_SHA256 = re.compile("[0-9a-f]{64}")
_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}

Fields = TypeVar("Fields")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ArrayEntry:
    """What a manifest says of an array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a manifest without its digest.

    Of its JSON with sorted keys and without spaces, so that indentation does not count.
    """
    parts = {name: value for name, value in manifest.items() if name != DIGEST}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def refuse_unknown_parts(file: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that says more than this release understands.

    Raises:
        InputError: It has an unknown part.
    """
    if unknown := sorted(manifest.keys() - {*PARTS, DIGEST}):
        raise InputError(
            f"{file} has {_short(unknown[0])}, which this release does not know; use the release "
            f"that made it, or make the pack index again"
        )


def check_digest(file: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a manifest with its digest, if it has one.

    Raises:
        InputError: The manifest was changed after it was written.
    """
    if DIGEST in manifest and manifest[DIGEST] != digest_of(manifest):
        raise InputError(
            f"{file} is not what was written (its {DIGEST} is that of another manifest); {ADVICE}"
        )


def read_section(
    file: Path, kind: type[Fields], name: str, found: object, required: Collection[str] = ()
) -> Fields:
    """Make a dataclass of a part of the manifest.

    Args:
        file: The manifest, for messages.
        kind: A dataclass whose fields are integers, numbers, texts, choices of texts, tuples of
            them, or None.
        name: Of the part, for messages.
        found: What the manifest has.
        required: Fields that must be there, beside those without a default.

    Raises:
        InputError: A field is missing, unknown or of another type, or a number is no number of 64
            bits.
    """
    if not isinstance(found, dict):
        raise InputError(f"{file} lacks a field: {name} is {_short(found)}, no object; {ADVICE}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(found.keys() - fields.keys())
    if unknown:
        raise InputError(
            f"{file} has {_short(unknown[0])} in {name}, which this release does not know; use the "
            f"release that made it, or make the pack index again"
        )
    values = {}
    for field in fields.values():
        if field.name in found:
            where = f"{name}.{field.name}"
            values[field.name] = _value(file, where, hints[field.name], found[field.name])
        elif field.default is dataclasses.MISSING or field.name in required:
            raise InputError(f"{file} lacks a field: {name}.{field.name}; {ADVICE}")
    return kind(**values)


def read_arrays(file: Path, found: object) -> dict[str, ArrayEntry]:
    """Read what a manifest says of its arrays.

    Raises:
        InputError: An array is missing or unknown, or is not described as it should be.
    """
    required = [name for name in DTYPES if name not in OPTIONAL_ARRAYS]
    if not isinstance(found, dict) or not set(required) <= found.keys():
        raise InputError(f"{file} does not list the arrays {', '.join(required)}; {ADVICE}")
    if unknown := sorted(found.keys() - DTYPES.keys()):
        raise InputError(f"{file} lists an array {_short(unknown[0])}, which is none; {ADVICE}")
    if len(found.keys() & set(OPTIONAL_ARRAYS)) == 1:
        raise InputError(f"{file} lists one of {' and '.join(OPTIONAL_ARRAYS)} alone; {ADVICE}")
    entries = {
        name: read_section(file, ArrayEntry, f"arrays.{name}", found[name])
        for name in DTYPES
        if name in found
    }
    for name, entry in entries.items():
        if entry.dtype not in DTYPES[name] or len(entry.shape) != 1:
            raise InputError(
                f"{file} says that {name} is {_short(entry.dtype)} {list(entry.shape)}; it must be "
                f"{' or '.join(DTYPES[name])} of one dimension: {ADVICE}"
            )
        if not _SHA256.fullmatch(entry.sha256):
            raise InputError(f"{file} has no SHA-256 for {name} but {_short(entry.sha256)}")
    return entries


def check_plan(file: Path, plan: PlanSettings) -> None:
    """Refuse settings that no plan was made under."""
    _check_range(file, "plan.sequence_length", plan.sequence_length, 1, LONGEST_ROW)
    _check_range(file, "plan.alignment", plan.alignment, 1, plan.sequence_length)
    if plan.sequence_length % plan.alignment:
        raise InputError(
            f"{file} has an alignment of {plan.alignment}, which does not divide its rows of "
            f"{plan.sequence_length}; {ADVICE}"
        )
    if plan.max_documents_per_pack is not None:
        _check_range(file, "plan.max_documents_per_pack", plan.max_documents_per_pack, 1)
    _check_range(file, "plan.min_packs", plan.min_packs, 0)
    _check_range(file, "plan.packs_multiple_of", plan.packs_multiple_of, 1)
    _check_range(file, "plan.seed", plan.seed, 0, 2**64 - 1)


def check_figures(
    file: Path,
    plan: PlanSettings,
    corpus: CorpusReference,
    figures: Figures,
    arrays: Mapping[str, ArrayEntry],
) -> None:
    """Refuse figures, and shapes of arrays, that contradict one another."""
    _check_range(file, "corpus.first_document", corpus.first_document, 0)
    _check_range(file, "corpus.num_documents", corpus.num_documents, 1)
    for field in dataclasses.fields(figures):
        value = getattr(figures, field.name)
        if field.name != "utilisation" and value is not None:
            _check_range(file, f"figures.{field.name}", value, 0)
    _check_range(file, "figures.num_packs", figures.num_packs, 1)
    if not 0 <= figures.utilisation <= 1:
        raise InputError(f"{file} has a utilisation of {figures.utilisation}; {ADVICE}")
    num_segments = arrays["document_ids"].shape[0]
    _check_range(file, "the number of segments", num_segments, 1)
    shapes = {
        **dict.fromkeys(DTYPES, num_segments),
        "pack_offsets": figures.num_packs + 1,
        "length_offsets": plan.sequence_length // plan.alignment + 2,
    }
    for name, entry in arrays.items():
        if entry.shape != (shapes[name],):
            raise InputError(
                f"{file} says that {name} has {entry.shape[0]} entries where its plan and figures "
                f"need {shapes[name]}; {ADVICE}"
            )


def _value(file: Path, where: str, kind: Any, value: object) -> Any:
    """A value of JSON as a value of a field's type."""
    if get_origin(kind) is types.UnionType:  # something or None
        if value is None:
            return None
        kind = next(choice for choice in get_args(kind) if choice is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{file} has {_short(value)} for {where}, not a list; {ADVICE}")
        return tuple(_value(file, where, get_args(kind)[0], item) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(
                f"{file} has {_short(value)} for {where}; this release knows "
                f"{', '.join(get_args(kind))}"
            )
        return value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:  # True is an int, but no number
        raise InputError(f"{file} has {_short(value)} for {where}, not {_NAMES[kind]}; {ADVICE}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{file} has {value} for {where}, not a number; {ADVICE}")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise InputError(f"{file} has {_short(value)} for {where}, over 64 bits; {ADVICE}")
    return value


def _check_range(file: Path, where: str, value: int, low: int, high: int = 2**63 - 1) -> None:
    if not low <= value <= high:
        raise InputError(f"{file} has {value} for {where}, not {low} to {high}; {ADVICE}")


def _short(value: object) -> str:
    return f"{value!r:.60}"
