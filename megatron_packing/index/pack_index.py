"""The packs of one corpus on disk.

A pack index is a folder:

    manifest.json         format version, plan, corpus, figures; dtype, shape and hash of each array
    pack_offsets.npy      int64, (num_packs + 1,)
    document_ids.npy      int32, (num_segments,)   int64 for more than 2**31 - 1 documents
    segment_starts.npy    int64, (num_segments,)   only if some segment is not a whole document
    segment_lengths.npy   int64, (num_segments,)   likewise
    places_by_length.npy  int32, (num_segments,)   the places (entries of document_ids) sorted by
                          the positions they take in a row; int64 likewise
    length_offsets.npy    int64, (sequence_length / alignment + 2,)   where in places_by_length the
                          places of each length, in units of the alignment, begin

Positions, not tokens: a document of n tokens has n - 1 positions, position i having token i as its
input and token i + 1 as its label. The folder is written beside its place and renamed, so it exists
whole or not at all. Its bytes depend on the plan and the corpus alone.

Segments of one length are interchangeable: every epoch after the first deals them to each other's
places anew: other neighbours in the same packs, computed from (seed, epoch), not stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files import new_folder, refuse_existing, sync

FORMAT = "megatron-packing pack index"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REQUIRED_ARRAYS = ("pack_offsets", "document_ids", "places_by_length", "length_offsets")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """What decides a plan, beside the corpus."""

    strategy: str
    sequence_length: int
    effort: str = "default"
    alignment: int = 1
    max_documents_per_pack: int | None = None
    overlong: str = "error"
    min_packs: int = 0
    packs_multiple_of: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusReference:
    """The corpus that an index was made from."""

    prefix: str
    """Where it was; a copy elsewhere serves as well."""
    fingerprint: str
    first_document: int
    """The index holds the documents from this one on."""
    num_documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of one pack, in the order of the row; arrays of shape ``(num_segments,)``."""

    document_ids: NDArray[np.integer]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def within(self, num_tokens: NDArray[Any]) -> Segments:
        """The same without positions that their documents do not have.

        Args:
            num_tokens: Tokens of each document, perhaps fewer than were planned.
        """
        there = num_tokens[self.document_ids].astype(np.int64) - 1 - self.starts
        lengths = np.minimum(self.lengths, there)
        kept = lengths > 0
        return Segments(self.document_ids[kept], self.starts[kept], lengths[kept])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Document, first position and positions of each segment."""
        columns = (self.document_ids, self.starts, self.lengths)
        return zip(*(column.tolist() for column in columns), strict=True)


@dataclass(frozen=True, slots=True)
class PackIndex:
    """A pack index, memory-mapped."""

    path: Path
    plan: PlanSettings
    corpus: CorpusReference
    figures: Figures
    pack_offsets: NDArray[np.int64]
    document_ids: NDArray[np.integer]
    segment_starts: NDArray[np.int64] | None
    segment_lengths: NDArray[np.int64] | None
    places_by_length: NDArray[np.integer]
    length_offsets: NDArray[np.int64]
    array_hashes: dict[str, str]
    """SHA-256 of each array, as the manifest has it."""

    @classmethod
    def open(cls, path: str | Path) -> PackIndex:
        """Open the folder ``path``.

        Raises:
            UnreadableError: There is none, or it lacks an array or a part of one.
            InputError: It is not a pack index or was written by another version.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        try:
            arrays = {
                name: _open_array(path, name, about) for name, about in manifest["arrays"].items()
            }
            return cls(
                path=path,
                plan=PlanSettings(**manifest["plan"]),
                corpus=CorpusReference(**manifest["corpus"]),
                figures=Figures(**manifest["figures"]),
                pack_offsets=arrays["pack_offsets"],
                document_ids=arrays["document_ids"],
                segment_starts=arrays.get("segment_starts"),
                segment_lengths=arrays.get("segment_lengths"),
                places_by_length=arrays["places_by_length"],
                length_offsets=arrays["length_offsets"],
                array_hashes={name: about["sha256"] for name, about in manifest["arrays"].items()},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path / MANIFEST} lacks a field or has a strange one ({error}); "
                f"make the pack index again"
            ) from error

    def __len__(self) -> int:
        """Packs."""
        return len(self.pack_offsets) - 1

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the names and the hashes of all arrays.

        Two indexes with one digest hold the same packs of the same documents.
        """
        named = json.dumps(sorted(self.array_hashes.items()))
        return hashlib.sha256(named.encode()).hexdigest()

    @property
    def num_documents(self) -> int:
        """Documents in the packs; one that was split counts once."""
        left_out = self.figures.num_documents_dropped + self.figures.num_documents_empty
        return self.corpus.num_documents - left_out

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return PackIndex.open, (self.path,)

    def segments(
        self, pack: int, num_tokens: NDArray[Any], *, epoch: int = 0, seed: int = 0
    ) -> Segments:
        """The segments of one pack.

        Args:
            pack: From 0 to ``len(self) - 1``.
            num_tokens: Tokens of each document of the corpus.
            epoch: From 0 on. In epoch 0 segments stand where they were planned; in later ones
                they have changed places with others of their length, so that neighbours differ.
            seed: Decides who changes with whom.
        """
        if not 0 <= pack < len(self):
            raise IndexError(f"{self.path} has packs 0 to {len(self) - 1}, not {pack}")
        places = np.arange(int(self.pack_offsets[pack]), int(self.pack_offsets[pack + 1]))
        segments = self._segments_at(places, num_tokens)
        if epoch == 0:
            return segments
        key = _core.epoch_key(seed, epoch)
        units = -(-segments.lengths // self.plan.alignment)
        other = [
            self._place_of_epoch(place, length, key)
            for place, length in zip(places.tolist(), units.tolist(), strict=True)
        ]
        return self._segments_at(np.array(other, np.int64), num_tokens)

    def _segments_at(self, places: NDArray[np.int64], num_tokens: NDArray[Any]) -> Segments:
        documents = np.asarray(self.document_ids[places])
        if self.segment_starts is None or self.segment_lengths is None:
            lengths = num_tokens[documents].astype(np.int64) - 1
            return Segments(documents, np.zeros_like(lengths), lengths)
        return Segments(documents, self.segment_starts[places], self.segment_lengths[places])

    def _place_of_epoch(self, place: int, length: int, key: int) -> int:
        """The place whose segment stands at ``place`` in the epoch of ``key``."""
        begin, end = (int(offset) for offset in self.length_offsets[length : length + 2])
        alike = self.places_by_length[begin:end]  # in rising order
        rank = int(np.searchsorted(alike, place))
        return int(alike[_core.permute(rank, end - begin, _core.epoch_key(key, length))])

    def check_corpus(self, prefix: Path, fingerprint: str) -> None:
        """Refuse a corpus that the index was not made from.

        Raises:
            InputError: The fingerprints differ.
        """
        if fingerprint != self.corpus.fingerprint:
            raise InputError(
                f"the pack index {self.path} was made from another corpus than {prefix} "
                f"(it was {self.corpus.prefix}); make one with: megatron-packing pack {prefix} "
                f"--sequence-length {self.plan.sequence_length} --strategy {self.plan.strategy} "
                f"--overlong {self.plan.overlong} --output DIR"
            )

    def check_arrays(self) -> None:
        """Compare every array with the hash in the manifest.

        Raises:
            InputError: An array was changed after it was written.
        """
        for name, expected in self.array_hashes.items():
            if _hash(getattr(self, name)) != expected:
                raise InputError(
                    f"{_array_path(self.path, name)} is not what was written (its hash differs); "
                    f"make the pack index again"
                )


def write_pack_index(
    path: Path,
    *,
    plan: PlanSettings,
    corpus: CorpusReference,
    figures: Figures,
    arrays: dict[str, NDArray[np.integer]],
) -> None:
    """Write a pack index, whole or not at all.

    Raises:
        InputError: There is something at ``path`` already.
    """
    refuse_existing(path)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "plan": asdict(plan),
        "corpus": asdict(corpus),
        "figures": asdict(figures),
        "arrays": {
            name: {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _hash(array)}
            for name, array in arrays.items()
        },
    }
    with new_folder(path) as unfinished:
        for name, array in arrays.items():
            np.save(_array_path(unfinished, name), array, allow_pickle=False)
            sync(_array_path(unfinished, name))
        text = json.dumps(manifest, indent=2) + "\n"
        (unfinished / MANIFEST).write_text(text, encoding="utf-8")
        sync(unfinished / MANIFEST)


def group_places(
    lengths: NDArray[np.integer], sequence_length: int, alignment: int
) -> dict[str, NDArray[np.integer]]:
    """The arrays ``places_by_length`` and ``length_offsets`` for segments of the given lengths."""
    units = -(-lengths // alignment)
    num_units = sequence_length // alignment
    if num_units <= np.iinfo(np.uint16).max:
        units = units.astype(np.uint16)  # numpy sorts 16 bits by radix
    counts = np.bincount(units, minlength=num_units + 1)
    narrow = len(lengths) <= np.iinfo(np.int32).max
    return {
        "places_by_length": np.argsort(units, kind="stable").astype(
            np.int32 if narrow else np.int64
        ),
        "length_offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableError(
            f"{path} is not a pack index: there is no {file}; make one with megatron-packing pack"
        ) from error
    except (OSError, ValueError) as error:
        raise UnreadableError(
            f"{file} cannot be read ({error}); make the pack index again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{file} is not the manifest of a pack index")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {manifest.get('format_version')}; this release reads "
            f"version {FORMAT_VERSION}: make the pack index again"
        )
    if not set(REQUIRED_ARRAYS) <= set(manifest.get("arrays", ())):
        raise InputError(f"{file} does not list the arrays {', '.join(REQUIRED_ARRAYS)}")
    return manifest


def _array_path(path: Path, name: str) -> Path:
    return path / f"{name}.npy"


def _open_array(path: Path, name: str, about: dict[str, Any]) -> NDArray[Any]:
    file = _array_path(path, name)
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise UnreadableError(
            f"{file} cannot be opened ({error}); copy or make the pack index again"
        ) from error
    if array.dtype.str != about["dtype"] or list(array.shape) != about["shape"]:
        raise InputError(
            f"{file} holds {array.dtype.str} {list(array.shape)} where the manifest says "
            f"{about['dtype']} {about['shape']}; copy or make the pack index again"
        )
    return array


def _hash(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
