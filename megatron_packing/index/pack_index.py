# SPDX-License-Identifier: Apache-2.0
"""The packs of one corpus on disk.

A pack index is a folder:

    manifest.json         format version, plan, corpus, figures; dtype, shape and hash of each
                          array; its own hash, which indexes of earlier releases do not have
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
places anew: other neighbors in the same packs, computed from (seed, epoch), not stored.

Opening checks that the manifest is complete and consistent, is what was written and says nothing
that this release does not know, and that each array has the dtype, the shape and the size that the
manifest says. Up to 256 MiB of arrays (about 20 million documents) it checks their hashes too. The
start of a run with more in all its indexes checks hashes only where a file is newer than the
manifest, which is written last. What another rank has opened is known by its manifest alone.
Reading a pack checks that its segments are positions of the corpus and fit in a row. ``verify``
proves everything. A file that is cut off while it is mapped ends the process with SIGBUS, as for
every memory-mapped file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.corpus.joined import has_fraction
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import look_at, place_in
from megatron_packing.index.array_file import array_path, hash_of, open_array, size_of_header
from megatron_packing.index.json_fields import ADVICE
from megatron_packing.index.manifest import (
    DIGEST,
    MANIFEST,
    CorpusReference,
    Figures,
    Manifest,
    check_digest,
    digest_of,
    load_known_manifest,
    load_manifest,
    load_manifest_and_status,
    read_manifest,
)
from megatron_packing.index.segments import Segments as Segments
from megatron_packing.planning.settings import PlanSettings

HASHED_BYTES = 1 << 28
_ATTEMPTS = 5


class PackIndex:
    """A pack index, memory-mapped.

    An index that another rank has opened and checked, or whose files' times say that they are those
    that were written, maps its arrays when one is first used.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str | None = None) -> None:
        """Describe an index without opening its arrays; ``open`` is the usual way to one.

        Args:
            path: The folder.
            manifest: What its manifest says.
            digest: SHA-256 of the manifest. Where it is given, the manifest is read again when the
                arrays are mapped, and must be the same.
        """
        self.path = path
        self.manifest = manifest
        self._digest = digest
        self._found: dict[str, Any] | None = None
        self._place: list[int] | None = None
        self._written_ns = 0
        self._arrays: dict[str, NDArray[Any]] | None = None
        self._has_right_hashes = False

    @property
    def plan(self) -> PlanSettings:
        """The settings that the packs were planned with."""
        return self.manifest.plan

    @property
    def corpus(self) -> CorpusReference:
        """The corpus that the packs were planned for."""
        return self.manifest.corpus

    @property
    def figures(self) -> Figures:
        """Counts."""
        return self.manifest.figures

    @property
    def pack_offsets(self) -> NDArray[np.int64]:
        """Where each pack's segments start."""
        return self._mapped["pack_offsets"]

    @property
    def document_ids(self) -> NDArray[np.integer]:
        """The document of each segment."""
        return self._mapped["document_ids"]

    @property
    def segment_starts(self) -> NDArray[np.int64] | None:
        """The first position of each segment; None if all are whole documents."""
        return self._mapped.get("segment_starts")

    @property
    def segment_lengths(self) -> NDArray[np.int64] | None:
        """The positions of each segment; None if all are whole documents."""
        return self._mapped.get("segment_lengths")

    @property
    def places_by_length(self) -> NDArray[np.integer]:
        """The places of segments, sorted by the positions they take."""
        return self._mapped["places_by_length"]

    @property
    def length_offsets(self) -> NDArray[np.int64]:
        """Where in ``places_by_length`` the places of each length start."""
        return self._mapped["length_offsets"]

    @property
    def array_hashes(self) -> dict[str, str]:
        """SHA-256 of each array, as the manifest has it."""
        return {name: entry.sha256 for name, entry in self.manifest.arrays.items()}

    @property
    def has_manifest_digest(self) -> bool:
        """Whether the manifest has its own hash; those of earlier releases have none."""
        return self.manifest.has_digest

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        trust: Literal["nothing", "manifest"] = "nothing",
        hashed_bytes: int | None = None,
    ) -> PackIndex:
        """Open the folder ``path``.

        Args:
            path: The folder.
            trust: With "manifest", arrays are only looked at if they have the sizes that belong to
                the manifest and none is newer. They are opened when they are first used.
            hashed_bytes: The hashes of arrays are checked if these have no more bytes; None is
                ``HASHED_BYTES``.

        Raises:
            UnreadableError: There is none, or it lacks an array or a part of one.
            InputError: It is not a pack index or was written by another version.
        """
        path = Path(path)
        hashed_bytes = HASHED_BYTES if hashed_bytes is None else hashed_bytes
        found, status = load_manifest_and_status(path)
        if trust == "manifest" and (known := cls._as_written(path, found, status)):
            return known
        for _ in range(_ATTEMPTS):
            try:
                index = cls._open_once(path, found, hashed_bytes)
            except InputError:
                before = found
                found, status = load_manifest_and_status(path)
                if found == before:
                    raise
                continue
            before = found
            found, now = load_manifest_and_status(path)
            if found == before:  # else another index took its place while arrays were opened
                index._see(found, status)
                return index
            status = now
        raise UnreadableError(
            f"{path} was replaced by another pack index {_ATTEMPTS} times while it was opened; "
            f"open it once it is written"
        )

    @classmethod
    def _as_written(
        cls, path: Path, found: dict[str, Any], status: os.stat_result
    ) -> PackIndex | None:
        """Return the index if its files are those that were written, by their sizes and times."""
        manifest = read_manifest(path / MANIFEST, found)
        if found.get(DIGEST) != digest_of(found):
            return None  # arrays may say more
        index = cls(path, manifest, digest_of(found))
        index._see(found, status)
        for name, entry in manifest.arrays.items():
            file, length = array_path(path, name), entry.shape[0]
            size = size_of_header(entry.dtype, length) + length * np.dtype(entry.dtype).itemsize
            try:
                if name == "length_offsets":  # a small one, which every run needs
                    offsets, array = open_array(file, entry.dtype, length, ADVICE)
                    index.longest_segment = index._longest_in(offsets)
                else:
                    array = look_at(file)
            except InputError:
                return None  # opening all of them says more
            if array.st_size != size or array.st_mtime_ns > status.st_mtime_ns:
                return None
        return index

    def _see(self, found: dict[str, Any], status: os.stat_result) -> None:
        """Keep what was read of the manifest, and what its file looks like."""
        self._found = found
        self._place = place_in(status)
        self._written_ns = status.st_mtime_ns

    @classmethod
    def open_known(
        cls,
        path: str | Path,
        digest: str,
        seen: tuple[dict[str, Any], list[int]] | None = None,
    ) -> PackIndex:
        """Open an index that another process has checked; its arrays are mapped when used.

        Args:
            path: The folder.
            digest: What ``known_digest`` is there.
            seen: What ``seen`` is there. The manifest is not read if it is the very same file.

        Raises:
            UnreadableError: There is none.
            InputError: It is another one.
        """
        path = Path(path)
        if seen is None:
            found, status = load_manifest_and_status(path)
        else:
            found, status = load_known_manifest(path, *seen)
        if digest_of(found) != digest:
            raise InputError(
                f"{path} is another pack index here than where it was opened first (its manifest "
                f"differs); give all nodes the same copy"
            )
        index = cls(path, read_manifest(path / MANIFEST, found), digest)
        index._see(found, status)
        return index

    @classmethod
    def _open_once(cls, path: Path, found: dict[str, Any], hashed_bytes: int) -> PackIndex:
        file = path / MANIFEST
        index = cls.map(path, read_manifest(file, found))
        for name in ("pack_offsets", "length_offsets"):
            offsets = getattr(index, name)
            if offsets[0] != 0 or offsets[-1] != len(index.document_ids):
                raise InputError(
                    f"{array_path(path, name)} does not run from 0 to the "
                    f"{len(index.document_ids)} segments; {ADVICE}"
                )
        if index.num_bytes <= hashed_bytes:
            index.check_arrays()
            most = int(np.diff(index.pack_offsets).max())
            if most != index.figures.max_documents_per_pack:
                raise InputError(
                    f"{file} has {index.figures.max_documents_per_pack} for "
                    f"figures.max_documents_per_pack, but a pack has {most} segments; {ADVICE}"
                )
        check_digest(file, found)  # last, as the other messages say more
        index._digest = digest_of(found)
        return index

    @classmethod
    def map(cls, path: Path, manifest: Manifest) -> PackIndex:
        """Map the arrays in the folder ``path``, which are taken for those of the manifest.

        Raises:
            UnreadableError: An array is missing, or shorter than it says.
            InputError: One has another dtype or shape than the manifest says.
        """
        index = cls(path, manifest)
        index._arrays = index._map()[0]
        return index

    @property
    def _mapped(self) -> dict[str, NDArray[Any]]:
        if self._arrays is None:
            arrays, newest = self._map()
            if self._digest != digest_of(load_manifest(self.path)):
                raise InputError(
                    f"{self.path} was replaced by another pack index after it was opened; start "
                    f"again with the one that is there now"
                )
            if newest > self._written_ns and self.num_bytes <= HASHED_BYTES:
                self._compare_hashes(arrays)
            self._arrays = arrays
        return self._arrays

    def _map(self) -> tuple[dict[str, NDArray[Any]], int]:
        """Map the arrays; return them, and when one was last changed, in nanoseconds."""
        arrays, newest = {}, 0
        for name, entry in self.manifest.arrays.items():
            path = array_path(self.path, name)
            arrays[name], status = open_array(path, entry.dtype, entry.shape[0], ADVICE)
            newest = max(newest, status.st_mtime_ns)
        return arrays, newest

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(
            np.dtype(entry.dtype).itemsize * entry.shape[0]
            for entry in self.manifest.arrays.values()
        )

    def known_digest(self) -> str:
        """Return what ``open_known`` takes: SHA-256 of the manifest."""
        if self._digest is None:
            self._digest = digest_of(load_manifest(self.path))
        return self._digest

    def place(self) -> list[int]:
        """Return ``place_of`` its manifest, as it was when the index was opened."""
        return self.seen()[1]

    def seen(self) -> tuple[dict[str, Any], list[int]]:
        """Return what was read of its manifest, as JSON values, and ``place_of`` that file.

        Raises:
            UnreadableError: There is none.
        """
        if self._found is None or self._place is None:
            self._see(*load_manifest_and_status(self.path))
            return self.seen()
        return self._found, self._place

    def __len__(self) -> int:
        """Packs."""
        return self.figures.num_packs

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

    @cached_property
    def longest_segment(self) -> int:
        """Positions that the longest segment takes in a row: a multiple of the alignment."""
        return self._longest_in(self.length_offsets)

    def _longest_in(self, length_offsets: NDArray[np.int64]) -> int:
        units = np.flatnonzero(np.diff(length_offsets))
        return int(units[-1]) * self.plan.alignment if len(units) else self.plan.alignment

    def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
        return PackIndex.open_known, (self.path, self.known_digest())

    def segments(
        self, pack: int, num_tokens: NDArray[Any], *, epoch: int = 0, seed: int = 0
    ) -> Segments:
        """The segments of one pack.

        Args:
            pack: From 0 to ``len(self) - 1``.
            num_tokens: Tokens of each document of the corpus.
            epoch: From 0 on. In epoch 0 segments stand where they were planned; in later ones
                they have changed places with others of their length, so that neighbors differ.
            seed: Decides who changes with whom.
        """
        if not 0 <= pack < len(self):
            raise IndexError(f"{self.path} has packs 0 to {len(self) - 1}, not {pack}")
        begin, end = int(self.pack_offsets[pack]), int(self.pack_offsets[pack + 1])
        most = self.figures.max_documents_per_pack
        if not 0 <= begin <= end <= min(len(self.document_ids), begin + most):
            raise self._damaged(pack, f"its segments are {begin} to {end}")
        places = np.arange(begin, end)
        segments = self._segments_at(pack, places, num_tokens)
        if epoch == 0:
            return segments
        key = _core.derive_key(seed, epoch)
        units = -(-segments.lengths // self.plan.alignment)
        other = [
            self._place_of_epoch(pack, place, length, key)
            for place, length in zip(places.tolist(), units.tolist(), strict=True)
        ]
        return self._segments_at(pack, np.array(other, np.int64), num_tokens)

    def _segments_at(
        self, pack: int, places: NDArray[np.int64], num_tokens: NDArray[Any]
    ) -> Segments:
        if len(places) == 0:
            nothing = np.zeros(0, np.int64)
            return Segments(nothing, nothing, nothing)
        documents = np.asarray(self.document_ids[places])
        first = self.corpus.first_document
        stop = min(first + self.corpus.num_documents, len(num_tokens))
        if documents.min() < first or documents.max() >= stop:
            raise self._damaged(pack, f"it holds documents that are not from {first} to {stop - 1}")
        positions = num_tokens[documents].astype(np.int64) - 1
        starts, lengths = np.zeros_like(positions), positions
        if self.segment_starts is not None and self.segment_lengths is not None:
            starts = np.asarray(self.segment_starts[places])
            lengths = np.asarray(self.segment_lengths[places])
            if starts.min() < 0 or (starts > positions - lengths).any():
                raise self._damaged(pack, "it holds positions that its documents do not have")
        if lengths.min() < 1:
            raise self._damaged(pack, "it holds a segment without a position")
        if int((-(-lengths // self.plan.alignment)).sum()) > (
            self.plan.sequence_length // self.plan.alignment
        ):
            raise self._damaged(pack, f"it does not fit in {self.plan.sequence_length} positions")
        return Segments(documents, starts, lengths)

    def _place_of_epoch(self, pack: int, place: int, length: int, key: int) -> int:
        """The place whose segment stands at ``place`` in the epoch of ``key``."""
        begin, end = (int(offset) for offset in self.length_offsets[length : length + 2])
        if not 0 <= begin <= end <= len(self.places_by_length):
            raise self._damaged(pack, f"length_offsets has {begin} and {end} for its segments")
        alike = self.places_by_length[begin:end]  # in rising order
        rank = int(np.searchsorted(alike, place))
        if rank >= len(alike) or alike[rank] != place:
            raise self._damaged(pack, f"places_by_length does not list its segment {place}")
        other = int(alike[_core.permute(rank, end - begin, _core.derive_key(key, length))])
        if not 0 <= other < len(self.document_ids):
            raise self._damaged(pack, f"places_by_length has {other}, which is no segment")
        return other

    def _damaged(self, pack: int, problem: str) -> InputError:
        return InputError(f"pack {pack} of {self.path} is damaged: {problem}; {ADVICE}")

    def check_corpus(self, prefix: Path, fingerprint: str) -> None:
        """Refuse a corpus that the index was not made from.

        Raises:
            InputError: The fingerprints differ.
        """
        if fingerprint != self.corpus.fingerprint:
            made_from = f"was made from another corpus than {prefix}"
            if str(prefix) != self.corpus.prefix:
                made_from += f" (it was {self.corpus.prefix})"
            else:
                made_from += " is now: it was changed"
                if has_fraction(self.corpus.prefix):
                    made_from += (
                        ", or an earlier release took the same part of PREFIX:EPOCHS in every epoch"
                    )
            raise InputError(
                f"the pack index {self.path} {made_from}; make one with: "
                f"{self.plan.command(str(prefix))}"
            )

    def check_arrays(self) -> None:
        """Compare every array with the hash in the manifest.

        Raises:
            InputError: An array was changed after it was written.
        """
        self._compare_hashes(self._mapped)

    @staticmethod
    def check_few(indexes: Iterable[PackIndex]) -> None:
        """Compare arrays with their hashes, unless that was done, if they are small.

        Small are all indexes together with up to ``HASHED_BYTES``. A copy that ended early may have
        a new manifest and older arrays of the same sizes, which only the hashes tell.

        Raises:
            InputError: An array is not what was written.
        """
        indexes = list(indexes)
        if sum(index.num_bytes for index in indexes) <= HASHED_BYTES:
            for index in indexes:
                if not index._has_right_hashes:
                    index.check_arrays()

    def _compare_hashes(self, arrays: dict[str, NDArray[Any]]) -> None:
        for name, expected in self.array_hashes.items():
            if hash_of(arrays[name]) != expected:
                raise InputError(
                    f"{array_path(self.path, name)} is not what was written (its hash differs); "
                    f"{ADVICE}"
                )
        self._has_right_hashes = True
