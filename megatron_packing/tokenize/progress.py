# SPDX-License-Identifier: Apache-2.0
"""Counts what a tokenize run has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.records.input_file import InputFile
from megatron_packing.tokenize.encoded_batch import EncodedBatch

# Data may have any number of field names; the notes about them are limited.
_MAX_NOTES = 500


@dataclass(slots=True)
class Progress:
    """What a run has done, and where it reads next."""

    position: Position = field(default_factory=Position)
    """Where the inputs are read next."""
    num_records: int = 0
    """Records that were read."""
    num_documents: int = 0
    """Documents in the corpus."""
    num_tokens: int = 0
    num_trained_tokens: int = 0
    longest_document: int = 0
    """Tokens of the longest document."""
    largest_token: int = 0
    """The largest token id."""
    num_with_special_tokens: int = 0
    """Documents with the text of special tokens in their own texts, which become special tokens."""
    schemas: dict[str, int] = field(default_factory=dict)
    """Number of documents of each schema."""
    rejects: dict[str, int] = field(default_factory=dict)
    """Number of records that were not used, by reason."""
    notes: dict[str, int] = field(default_factory=dict)
    """Number of documents for each note; see ``EncodedBatch.notes``."""
    num_unmarked_answers: int = 0
    """Answers that their records mark as untrained."""
    matched_mappings: list[str] = field(default_factory=list)
    """The mappings of fields and roles that matched."""
    unmatched_mappings: list[str] = field(default_factory=list)
    """The mappings that matched nothing, known after all records are read."""
    first_places: dict[str, str] = field(default_factory=dict)
    """For each schema and note, the file and number of its first record."""
    downloaded: dict[str, tuple[str, int]] = field(default_factory=dict)
    """SHA-256 and bytes of each remote input that was read completely, by its number."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Durable bytes of each unfinished file."""

    def add(self, file: InputFile, batch: RecordBatch, encoded: EncodedBatch) -> None:
        """Count a batch of a file."""
        self.position = batch.end
        self.num_records += batch.num_records
        self.num_documents += len(encoded.lengths)
        self.num_tokens += len(encoded.tokens)
        self.num_trained_tokens += encoded.num_trained_tokens
        self.num_with_special_tokens += encoded.num_with_special_tokens
        self.largest_token = max(self.largest_token, int(encoded.tokens.max(initial=0)))
        self.longest_document = max(self.longest_document, int(encoded.lengths.max(initial=0)))
        self.schemas = dict(Counter(self.schemas) + encoded.schemas)
        kinds = Counter(reject.kind for reject in encoded.rejects)
        self.rejects = dict(Counter(self.rejects) + kinds)
        for note, count in encoded.notes.items():
            if note not in self.notes and len(self.notes) >= _MAX_NOTES:
                note = note.partition(":")[0] + ": others"
            self.notes[note] = self.notes.get(note, 0) + count
        self.num_unmarked_answers += encoded.num_unmarked_answers
        self.matched_mappings = sorted({*self.matched_mappings, *encoded.matched_mappings})
        for found, number in encoded.first_records.items():
            if found in self.schemas or found in self.notes:
                self.first_places.setdefault(found, f"{file.name}, {file.unit} {number:,}")

    @property
    def num_rejects(self) -> int:
        """Records that were not used."""
        return sum(self.rejects.values())

    def to_state(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """Make a progress from the result of ``to_state``.

        Raises:
            InputError: Another release, with other fields, wrote the state.
        """
        if set(state) != {one.name for one in fields(cls)}:
            raise other_release()
        known = dict(state)
        known["downloaded"] = {number: tuple(pair) for number, pair in state["downloaded"].items()}
        known["position"] = Position(**state["position"])
        return cls(**known)


def other_release() -> InputError:
    """Return the error for an unfinished run whose files have other fields."""
    return InputError(
        "another release of megatron-packing started the unfinished run; start over with --restart"
    )


Listener = Callable[[int, int, Progress], None]
"""Called with the bytes of input read so far, the bytes of all inputs, and the progress."""
