# SPDX-License-Identifier: Apache-2.0
"""Reads a corpus: the tokens of many documents, and which of them are trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.document_index import DocumentIndex
from megatron_packing.corpus.documents import Documents as Documents
from megatron_packing.corpus.documents import TokenDocuments as TokenDocuments
from megatron_packing.corpus.fingerprint import fingerprint_of
from megatron_packing.corpus.given_path import advise_for_corpus
from megatron_packing.corpus.indexed_dataset import data_path, index_path, read_index
from megatron_packing.corpus.known_files import KnownFiles, KnownPair
from megatron_packing.corpus.loss_mask import LOSS_MASK_SUFFIX as LOSS_MASK_SUFFIX
from megatron_packing.corpus.loss_mask import bad_mask_value, check_mask_values
from megatron_packing.corpus.loss_mask import loss_mask_prefix as loss_mask_prefix
from megatron_packing.corpus.record import (
    CorpusRecord,
    contradiction,
    read_corpus_record,
    read_record_and_time,
)
from megatron_packing.corpus.record import corpus_record_path as corpus_record_path
from megatron_packing.corpus.storage import FILES, DataReader, Storage, corpus_path
from megatron_packing.counted import counted
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import place_of


def recorded_tokenizer(prefix: Path) -> str | None:
    """Return the tokenizer that a corpus's record names, or None."""
    record = read_corpus_record(prefix)
    return None if record is None else record.tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownCorpus:
    """A corpus that another rank has opened and checked."""

    record: CorpusRecord | None
    files: KnownFiles
    places: list[list[int]] | None = None
    """``place_of`` its files, where they were opened; of none that are stored elsewhere."""

    def as_json(self) -> list[Any]:
        """Return JSON values, without the record."""
        return [self.files.as_json(), self.places]

    @classmethod
    def from_json(
        cls, found: list[Any], refuse: Callable[[str, object], InputError]
    ) -> KnownCorpus:
        """Read what ``as_json`` gave; see ``KnownFiles.from_json``."""
        files, places = found
        return cls(record=None, files=KnownFiles.from_json(files, refuse), places=places)


Trust = Literal["nothing", "record"] | KnownCorpus
"""What is believed of a corpus's files in place of reading them: nothing; the record beside it if
their sizes and headers are as recorded and none is newer; or what another rank found in the very
same files. Copies of what another rank opened are read and compared."""


class Corpus:
    """The documents of a Megatron ``.bin/.idx`` pair, memory-mapped unless ``storage`` differs.

    ``PREFIX_loss_mask.bin/.idx`` beside it (uint8, the same lengths) has 1 for tokens that are
    trained, else 0. Without it every token is trained. A corpus that is pickled opens its files
    again in the other process.

    Opening a corpus reads and checks its ``.idx`` files and its record, but not the ``.bin`` files:
    the fingerprint reads a sample of them, ``corpus.content`` all. With ``trust``, a corpus that is
    known opens without reading documents. If a mapped file is truncated, the process ends with
    SIGBUS.
    """

    def __init__(
        self, prefix: str | Path, storage: Storage = FILES, trust: Trust = "nothing"
    ) -> None:
        """Open the corpus.

        Args:
            prefix: The path of its files without the ending.
            storage: Where the files are, and how ``.bin`` files are read.
            trust: What is believed in place of reading the files.

        Raises:
            UnreadableError: A file is missing or has the wrong size, or the loss mask that the
                record mentions is missing.
            InputError: A file is damaged, or the loss mask or the record belongs to another corpus.
        """
        self.prefix = corpus_path(prefix)
        self._storage = storage
        self._trust = trust
        if not self.prefix.name:
            raise InputError(
                f"{str(prefix)!r} is not the prefix of a corpus; give the path of its .bin and "
                f".idx files without the ending"
            )
        self._files = storage.local_prefix(self.prefix)
        self._known: KnownFiles | None = None
        self._known_places: list[list[int]] | None = None
        if isinstance(trust, KnownCorpus):
            self.record = trust.record
            if trust.places and trust.places == self._places(trust.files):
                self._open_known(trust.files, trust.places)
                return
            for at, pair, size in self._pairs(trust.files):
                pair.check_sizes(at, "rank 0", size)
            if trust.places:
                self._read_copy(trust.files)
            else:
                self._open_known(trust.files)
            return
        # The record was written last: files that are newer were changed.
        self.record, written = read_record_and_time(self._files)
        recorded = self.record.files if self.record else None
        if trust == "record" and recorded is not None:
            places = self._places_as_recorded(recorded, newest=written)
            if places is not None:
                self._open_known(recorded, places)
                self._check_record()
                return
        self._read_and_check()

    def _pairs(self, files: KnownFiles) -> list[tuple[Path, KnownPair, int | None]]:
        """Return the place of each pair of files, what is known of it, and a remote size."""
        pairs = [(self._files, files.tokens, self._storage.data_size(self.prefix))]
        if files.loss_mask is not None:
            size = self._storage.data_size(loss_mask_prefix(self.prefix))
            pairs.append((loss_mask_prefix(self._files), files.loss_mask, size))
        return pairs

    def _places(self, files: KnownFiles) -> list[list[int]]:
        """Where the files are that are not stored elsewhere."""
        pairs = [at for at, _, size in self._pairs(files) if size is None]
        return [place_of(path) for at in pairs for path in (index_path(at), data_path(at))]

    def _read_copy(self, files: KnownFiles) -> None:
        """Read other files than those that rank 0 opened, and compare their fingerprint."""
        self.record = read_corpus_record(self._files)
        self._read_and_check()
        self.check_same(files)

    def check_same(self, files: KnownFiles) -> None:
        """Refuse a corpus that is not the one that rank 0 opened.

        Args:
            files: What rank 0 found.

        Raises:
            InputError: The fingerprints differ; or as ``fingerprint``.
        """
        if self.fingerprint != files.fingerprint:
            raise InputError(
                f"{self.prefix} is another corpus here than on rank 0 (its fingerprint is "
                f"{self.fingerprint:.20}, there {files.fingerprint:.20}); copy it again"
            )

    def _places_as_recorded(
        self, files: KnownFiles, newest: int | None = None
    ) -> list[list[int]] | None:
        """Return where the files are if they are as recorded, else None; as ``_places``."""
        places: list[list[int]] = []
        try:
            for at, pair, size in self._pairs(files):
                found = pair.places_at(at, size, newest=newest)
                if found is None:
                    return None
                places += found
        except UnreadableError:
            return None  # reading them says more
        return None if files.loss_mask is None and self._has_mask_files() else places

    def _open_known(self, files: KnownFiles, places: list[list[int]] | None = None) -> None:
        self._known, self._known_places = files, places
        self._tokens = files.tokens.open(self._files)
        self._masks = None
        if files.loss_mask is not None:
            self._masks = files.loss_mask.open(loss_mask_prefix(self._files))

    def _read_and_check(self) -> None:
        try:
            self._tokens = read_index(self._files, data_size=self._storage.data_size(self.prefix))
        except UnreadableError as error:
            advice = advise_for_corpus(self._files)
            if advice is None:
                raise
            raise UnreadableError(f"{index_path(self._files)} does not exist: {advice}") from error
        if self._tokens.dtype.kind == "f":
            raise InputError(
                f"{index_path(self.prefix)} has dtype {self._tokens.dtype}; tokens must be "
                f"integers: write the corpus again"
            )
        self._check_record()
        self._masks = self._read_masks()

    @property
    def folder(self) -> Path:
        """Folder for files derived from this corpus."""
        return self._files.parent

    @property
    def corpora(self) -> list[Corpus]:
        """A list of this corpus alone; a ``JoinedCorpus`` has several."""
        return [self]

    def at_epoch(self, epoch: int) -> Corpus:  # noqa: ARG002  # a JoinedCorpus asks
        """Return this corpus, because every epoch has all of its documents."""
        return self

    def locate(
        self, documents: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Return the number of each document's corpus in ``corpora``, and its number there."""
        return np.zeros(len(documents), np.int64), documents

    def __reduce__(self) -> tuple[type[Corpus], tuple[str, Storage, Trust]]:
        return Corpus, (str(self.prefix), self._storage, self._trust)

    def __len__(self) -> int:
        """The number of documents."""
        return self._tokens.num_documents

    def known(self) -> KnownCorpus:
        """Return what another rank needs to open this corpus without reading it.

        Raises:
            InputError: As ``fingerprint``.
        """
        files = self._known
        if files is None:
            masks = None
            if self._masks is not None:
                masks = KnownPair.of(loss_mask_prefix(self._files), self._masks)
            files = KnownFiles(
                fingerprint=self.fingerprint,
                tokens=KnownPair.of(self._files, self._tokens),
                loss_mask=masks,
            )
        places = self._known_places
        return KnownCorpus(
            record=self.record,
            files=files,
            places=self._places(files) if places is None else places,
        )

    @property
    def num_tokens(self) -> NDArray[np.integer]:
        """Tokens of each document, shape ``(len(self),)``: int32, or int64 if one does not fit.

        Memory-mapped, unless documents consist of several sequences.
        """
        return self._tokens.lengths

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return self._masks is not None

    @property
    def token_index(self) -> DocumentIndex:
        """Where the tokens of each document are in ``PREFIX.bin``."""
        return self._tokens

    @property
    def mask_index(self) -> DocumentIndex | None:
        """Where the loss mask of each document is in ``PREFIX_loss_mask.bin``; None without one."""
        return self._masks

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return tokens ``start`` to ``stop`` of one document, in the dtype of the corpus."""
        return self._read(self._token_data, self._tokens, document, start, stop)

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """Return 1 for each of these tokens that is trained (as a label), else 0.

        Raises:
            InputError: The file has another value, which would scale the loss.
        """
        if self._masks is None:
            stop = int(self.num_tokens[document]) if stop is None else stop
            return np.ones(stop - start, np.uint8)
        mask = self._read(self._mask_data, self._masks, document, start, stop)
        if len(mask) and mask.max() > 1:
            raise bad_mask_value(self.prefix, document, int(mask.max()))
        return mask

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all lengths, and of all data or of 256 blocks of 64 KiB of each file.

        The record of a corpus that this project made has it; see ``trust``.

        Copies of a corpus have the same fingerprint. One that was tokenized differently has
        another. If a few tokens of a corpus over 16 MiB are changed in place, the fingerprint may
        stay the same; ``megatron-packing verify --deep`` detects that.

        Raises:
            InputError: The data read of the loss mask has a value other than 0 and 1.
        """
        if self._known is not None:
            return self._known.fingerprint
        known = self._storage.known_fingerprint(self.prefix)
        if known is not None:
            return known
        masks, check = None, None
        if self._masks is not None:
            masks = self._masks, self.open_data(is_mask=True)
            check = partial(check_mask_values, self.prefix, self._masks)
        found = fingerprint_of(self._tokens, self.open_data(), masks, check)
        recorded = self.record.files if self.record else None
        if (
            recorded is not None
            and recorded.fingerprint != found
            and self._places_as_recorded(recorded) is not None
        ):
            raise contradiction(
                self.prefix,
                f"says that the fingerprint is {recorded.fingerprint:.20}",
                f"that of its files is {found:.20}",
            )
        return found

    def _check_record(self) -> None:
        """Refuse a record that belongs to another corpus."""
        if self.record is None:
            return
        counts = (
            ("documents", self.record.num_documents, len(self)),
            ("tokens", self.record.num_tokens, self._tokens.num_values),
        )
        for what, recorded, found in counts:
            if recorded is not None and recorded != found:
                raise contradiction(
                    self.prefix,
                    f"counts {recorded:,} {what}",
                    f"{index_path(self.prefix)} has {found:,}",
                )

    def _read_masks(self) -> DocumentIndex | None:
        prefix = loss_mask_prefix(self._files)
        remote_size = self._storage.data_size(loss_mask_prefix(self.prefix))
        if remote_size is None and not self._has_mask_files():
            if self.record is not None and self.record.needs_loss_mask:
                trained = self.record.num_trained_tokens
                total = counted(self._tokens.num_values, "token")
                how_many = "" if trained is None else f" ({trained:,} of {total} are trained)"
                raise UnreadableError(
                    f"{prefix}.bin and .idx are missing, but {corpus_record_path(self.prefix)} "
                    f"says that the corpus has a loss mask{how_many}; copy both files beside the "
                    f"corpus, or tokenize it again"
                )
            return None
        masks = read_index(
            prefix,
            missing="copy both files of the loss mask beside the corpus",
            data_size=remote_size,
        )
        if masks.dtype != np.uint8:
            raise InputError(
                f"{index_path(prefix)} has dtype {masks.dtype}; a loss mask must have uint8"
            )
        if not np.array_equal(masks.lengths, self._tokens.lengths):
            raise InputError(
                f"{index_path(prefix)} has other document lengths than "
                f"{index_path(self.prefix)}; they belong to different corpora: write them again"
            )
        return masks

    def _has_mask_files(self) -> bool:
        """Whether there is a loss mask, or a part of one.

        A dangling link, for example to a volume that is not mounted, also means a loss mask.
        """
        prefix = loss_mask_prefix(self._files)
        paths = (data_path(prefix), index_path(prefix))
        return any(os.path.lexists(path) for path in paths)

    def open_data(self, *, is_mask: bool = False) -> DataReader:
        """Open the ``.bin`` of the tokens or of the loss mask again.

        Raises:
            UnreadableError: The file is missing, or its size changed since the corpus was opened.
        """
        index = self._masks if is_mask else self._tokens
        assert index is not None
        prefix = loss_mask_prefix(self.prefix) if is_mask else self.prefix
        return self._storage.open_data(prefix, index.num_bytes)

    @staticmethod
    def _read(
        data: DataReader, index: DocumentIndex, document: int, start: int, stop: int | None
    ) -> NDArray[Any]:
        length = int(index.lengths[document])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(
                f"document {document} has {counted(length, 'token')}, not {start} to {stop}"
            )
        offset = int(index.offsets[document])
        size = index.dtype.itemsize
        return data.read(offset + start * size, offset + stop * size).view(index.dtype)

    @cached_property
    def _token_data(self) -> DataReader:
        return self.open_data()

    @cached_property
    def _mask_data(self) -> DataReader:
        return self.open_data(is_mask=True)
