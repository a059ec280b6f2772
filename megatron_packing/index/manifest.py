# SPDX-License-Identifier: Apache-2.0
"""The manifest of a pack index: what it says, and whether that can be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_packing.corpus.given_path import advise_for_index
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import open_regular, place_in, read_json_file
from megatron_packing.index.json_fields import ADVICE, read_fields, shortened
from megatron_packing.planning.settings import PlanSettings

FORMAT = "megatron-packing pack index"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
LONGEST_ROW = 2**26
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CorpusReference:
    """The corpus that an index was made from."""

    prefix: str
    """Where it was; a copy elsewhere serves as well."""
    fingerprint: str
    first_document: int
    """The index holds the documents from this one on."""
    num_documents: int
    tokenizer_sha256: str | None = None
    """Of the tokenizer that the corpus says it was made with; None where it does not say, or
    several corpora were made with different ones."""
    largest_token: int | None = None
    """The largest token id in the corpus."""
    content_sha256: tuple[str, ...] | None = None
    """SHA-256 of each corpus's ``.bin`` of tokens and, if there is one, of its loss mask's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Counts of an index. Nothing is left out of it without being counted here."""

    num_packs: int
    lower_bound: int
    """No plan of whole documents under the same settings has fewer packs."""
    num_positions: int
    """Positions in the packs, without padding."""
    utilisation: float
    max_documents_per_pack: int
    num_documents_split: int
    num_documents_dropped: int
    num_documents_truncated: int
    num_documents_empty: int
    """Documents of fewer than two tokens: they have no position to train."""
    num_positions_lost: int
    """Positions of dropped documents and cut-off ends."""
    num_documents_untrained: int | None = None
    """Documents in the packs of which no label is trained; None where that was not counted."""
    num_packs_untrained: int | None = None
    """Packs of which no label is trained."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ArrayEntry:
    """What a manifest says of an array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that a manifest says."""

    plan: PlanSettings
    corpus: CorpusReference
    figures: Figures
    arrays: Mapping[str, ArrayEntry]
    has_digest: bool = True
    """Whether the manifest has its own hash; those of earlier releases have none."""

    def as_json(self) -> str:
        """The text of the file."""
        parts = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "plan": dataclasses.asdict(self.plan),
            "corpus": dataclasses.asdict(self.corpus),
            "figures": dataclasses.asdict(self.figures),
            "arrays": {name: dataclasses.asdict(entry) for name, entry in self.arrays.items()},
        }
        return json.dumps(parts | {DIGEST: digest_of(parts)}, indent=2) + "\n"


def load_manifest(path: Path) -> dict[str, Any]:
    """The JSON of the manifest in the folder ``path``; see ``load_manifest_and_status``."""
    return load_manifest_and_status(path)[0]


def load_manifest_and_status(path: Path) -> tuple[dict[str, Any], os.stat_result]:
    """The JSON of the manifest in the folder ``path``, and what the file that was read looked like.

    ``read_manifest`` checks the parts.

    Raises:
        UnreadableError: There is none.
        InputError: It is something else, or of another version.
    """
    file = path / MANIFEST
    try:
        manifest, status = read_json_file(file, ADVICE, looks_first=False)
    except UnreadableError:
        if file.exists():
            raise
        advice = advise_for_index(path) or "make one with megatron-packing pack"
        raise UnreadableError(f"{path} is not a pack index: there is no {file}; {advice}") from None
    if manifest.get("format") != FORMAT:
        raise InputError(f"{file} is not the manifest of a pack index")
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version!r:.20}; this release reads version "
            f"{FORMAT_VERSION}: make the pack index again"
        )
    return manifest, status


def load_known_manifest(
    path: Path, known: dict[str, Any], place: list[int]
) -> tuple[dict[str, Any], os.stat_result]:
    """Do as ``load_manifest_and_status``, but do not read a file that another rank has read.

    The file is opened, which shows whether this process may read it, and whether it is that file.

    Args:
        path: The folder.
        known: What the other rank read.
        place: ``place_of`` the file there.

    Raises:
        InputError: As ``load_manifest_and_status``.
    """
    try:
        with open_regular(path / MANIFEST, looks_first=False) as file:
            status = os.fstat(file.fileno())
    except UnreadableError:
        return load_manifest_and_status(path)
    return (known, status) if place_in(status) == place else load_manifest_and_status(path)


def read_manifest(file: Path, found: Mapping[str, Any]) -> Manifest:
    """Check what a manifest says, but for its digest; see ``check_digest``.

    Args:
        file: The manifest, for messages.
        found: What ``load_manifest`` gave.

    Raises:
        InputError: Parts are missing, unknown or contradict one another.
    """
    _refuse_unknown_parts(file, found)
    plan = read_fields(file, PlanSettings, "plan", found.get("plan"), ["strategy"])
    _check_plan(file, plan)
    corpus = read_fields(file, CorpusReference, "corpus", found.get("corpus"))
    figures = read_fields(file, Figures, "figures", found.get("figures"))
    entries = read_arrays(file, found.get("arrays"))
    _check_figures(file, plan, corpus, figures, entries)
    return Manifest(
        plan=plan, corpus=corpus, figures=figures, arrays=entries, has_digest=DIGEST in found
    )


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a manifest without its digest.

    Of its JSON with sorted keys and without spaces, so that indentation does not count.
    """
    parts = {name: value for name, value in manifest.items() if name != DIGEST}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _refuse_unknown_parts(file: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that says more than this release understands.

    Raises:
        InputError: It has an unknown part.
    """
    if unknown := sorted(manifest.keys() - {*PARTS, DIGEST}):
        raise InputError(
            f"{file} has {shortened(unknown[0])}, which this release does not know; use the "
            f"release that made it, or make the pack index again"
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


def read_arrays(file: Path, found: object) -> dict[str, ArrayEntry]:
    """Read what a manifest says of its arrays.

    Raises:
        InputError: An array is missing or unknown, or is not described as it should be.
    """
    required = [name for name in DTYPES if name not in OPTIONAL_ARRAYS]
    if not isinstance(found, dict) or not set(required) <= found.keys():
        raise InputError(f"{file} does not list the arrays {', '.join(required)}; {ADVICE}")
    if unknown := sorted(found.keys() - DTYPES.keys()):
        raise InputError(f"{file} lists an array {shortened(unknown[0])}, which is none; {ADVICE}")
    if len(found.keys() & set(OPTIONAL_ARRAYS)) == 1:
        raise InputError(f"{file} lists one of {' and '.join(OPTIONAL_ARRAYS)} alone; {ADVICE}")
    entries = {
        name: read_fields(file, ArrayEntry, f"arrays.{name}", found[name])
        for name in DTYPES
        if name in found
    }
    for name, entry in entries.items():
        if entry.dtype not in DTYPES[name] or len(entry.shape) != 1:
            raise InputError(
                f"{file} says that {name} is {shortened(entry.dtype)} {list(entry.shape)}; it must "
                f"be {' or '.join(DTYPES[name])} of one dimension: {ADVICE}"
            )
        if not _SHA256.fullmatch(entry.sha256):
            raise InputError(f"{file} has no SHA-256 for {name} but {shortened(entry.sha256)}")
    return entries


def _check_plan(file: Path, plan: PlanSettings) -> None:
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


def _check_figures(
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


def _check_range(file: Path, where: str, value: int, low: int, high: int = 2**63 - 1) -> None:
    if not low <= value <= high:
        raise InputError(f"{file} has {value} for {where}, not {low} to {high}; {ADVICE}")
