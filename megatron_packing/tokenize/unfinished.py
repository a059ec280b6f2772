# SPDX-License-Identifier: Apache-2.0
"""A corpus while it is being written: a folder beside it, from which a killed run goes on.

``PREFIX.unfinished/`` holds what will be the corpus, appended to, and ``state.json``, replaced
every few seconds: how many bytes of each file are certain to be on disk, and where the inputs are
read next. Bytes beyond those are cut off when a run goes on. The files take their final names, the
``.idx`` of the tokens last, when all is there.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from megatron_packing.corpus.corpus import corpus_record_path, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import data_path, index_path, write_index
from megatron_packing.errors import InputError
from megatron_packing.files.publication import rename_new
from megatron_packing.files.whole import prefix_lock, sync, write_whole
from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.records.inputs import InputFile
from megatron_packing.tokenize.encoder import EncodedBatch

_TOKENS, _MASK, _LENGTHS, _REJECTS = "tokens", "loss_mask", "lengths", "rejects"
_FILES = (_TOKENS, _MASK, _LENGTHS, _REJECTS)
# Field names in data are without bound; what is counted about them is not.
_MOST_NOTES = 500


def rejects_path(prefix: Path) -> Path:
    """``PREFIX_rejects.jsonl``: the records that were not used."""
    return prefix.with_name(prefix.name + "_rejects.jsonl")


def unfinished_path(prefix: Path) -> Path:
    """``PREFIX.unfinished``: where a corpus is written."""
    return prefix.with_name(prefix.name + ".unfinished")


@dataclass(slots=True)
class Progress:
    """What was done, as far as it is on disk."""

    position: Position = field(default_factory=Position)
    num_records: int = 0
    """Records that were read."""
    num_documents: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    longest_document: int = 0
    largest_token: int = 0
    num_with_special_tokens: int = 0
    """Documents whose own texts write special tokens, which become just these."""
    schemas: dict[str, int] = field(default_factory=dict)
    """Documents of each schema."""
    rejects: dict[str, int] = field(default_factory=dict)
    """Records that were not used, by what was wrong with them."""
    notes: dict[str, int] = field(default_factory=dict)
    """Documents of which each note is true; see ``EncodedBatch.notes``."""
    num_unmarked_answers: int = 0
    """Answers of the documents that their own marks leave untrained."""
    matched_mappings: list[str] = field(default_factory=list)
    """The mappings of fields and roles that matched something."""
    unmatched_mappings: list[str] = field(default_factory=list)
    """Those that matched nothing; known when all records are read."""
    first_places: dict[str, str] = field(default_factory=dict)
    """Where the first record of each schema and of each note stands."""
    downloaded: dict[str, tuple[str, int]] = field(default_factory=dict)
    """SHA-256 and bytes of each remote input that was read wholly, by its number."""
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FILES, 0))
    """Bytes of each file."""

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
            if note not in self.notes and len(self.notes) >= _MOST_NOTES:
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


class UnfinishedCorpus:
    """Used as a context manager; one process at a time."""

    def __init__(self, prefix: Path, job: dict[str, Any], restart: bool = False) -> None:
        """Begin, or go on where the run before was stopped.

        Args:
            prefix: Of the corpus.
            job: All that its bytes depend on. A run goes on only with the same; a date of None is
                the day that the run was begun on.
            restart: Throw away what was done.

        Raises:
            InputError: The corpus exists, another process is writing it, or what was done is of
                another job.
        """
        self.prefix = prefix
        self.folder = unfinished_path(prefix)
        self.progress = Progress()
        """What was added; what of it is certain, ``state.json`` knows."""
        self.job = {**job, "date": job["date"] or datetime.date.today().isoformat()}
        self._files: dict[str, BinaryIO] = {}
        self._lock = ExitStack()
        self._lock.enter_context(prefix_lock(prefix))
        try:
            self.folder.mkdir(exist_ok=True)
            state = self._read_state(restart)
            complete = state is not None and bool(state.get("complete"))
            if state is not None and complete:
                complete, state = self._look_at_complete(state, job, restart)
            if not complete:
                self._check_nothing_exists()
                if restart:
                    self._remove_all_but()
                    state = None
            if state is None:
                write_whole(self.folder / "job.json", json.dumps(self.job, indent=2))
            else:
                self._check_same(job)
                self.progress = _from_state(state)
            self.complete = complete
            if not complete:
                self._open_files()
        except BaseException:
            self._remove_if_empty()
            self._close()
            raise

    def __enter__(self) -> UnfinishedCorpus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._remove_if_empty()
        self._close()

    def add(self, file: InputFile, batch: RecordBatch, encoded: EncodedBatch) -> None:
        """Append documents and rejects. They are certain once ``checkpoint`` has returned."""
        self._files[_TOKENS].write(encoded.tokens.tobytes())
        self._files[_MASK].write(encoded.loss_mask.tobytes())
        self._files[_LENGTHS].write(encoded.lengths.astype("<i4").tobytes())
        for reject in encoded.rejects:
            line = {"file": file.name, file.unit: reject.number, "reason": reject.reason}
            text = json.dumps(line, ensure_ascii=False) + "\n"
            self._files[_REJECTS].write(text.encode(errors="backslashreplace"))
        self.progress.add(file, batch, encoded)

    def checkpoint(self) -> None:
        """Make what was added certain."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.progress.sizes = {name: file.tell() for name, file in self._files.items()}
        self._write_state(complete=False)

    def publish(self, dtype: np.dtype[Any], record: dict[str, Any]) -> None:
        """Write the indexes and the record, and give all files their names.

        Where every token is trained there are no loss masks, which means the same.
        """
        self.checkpoint()
        lengths = self.lengths()
        write_index(self.folder / "tokens.idx", dtype, lengths)
        write_index(self.folder / "loss_mask.idx", np.dtype(np.uint8), lengths)
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.folder / "corpus.json", text)
        self._write_state(complete=True)
        self.finish_publishing()

    def finish_publishing(self) -> None:
        """Rename what is not renamed yet; the ``.idx``, without which there is no corpus, last."""
        for name, target in self._targets(self.progress):
            if (self.folder / name).exists():
                if target.exists() and target.samefile(self.folder / name):
                    (self.folder / name).unlink()  # renamed by a link, and killed right then
                    continue
                try:
                    rename_new(self.folder / name, target)
                except FileExistsError as error:
                    raise InputError(
                        f"{target} was made by something else while this corpus was written; "
                        f"remove it and run the same command again, which then finishes"
                    ) from error
        sync(self.prefix.parent)
        self._remove_all_but("state.json", "job.json")
        (self.folder / "state.json").unlink()  # without it the folder is nothing
        shutil.rmtree(self.folder)

    def first_reject(self) -> str:
        """The line of the first record that was not used."""
        self._files[_REJECTS].flush()
        with (self.folder / _REJECTS).open(encoding="utf-8") as file:
            return file.readline().strip()

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Tokens of each document so far, memory-mapped."""
        self._files[_LENGTHS].flush()
        return np.memmap(self.folder / _LENGTHS, np.dtype("<i4"), "r")

    def _targets(self, progress: Progress) -> list[tuple[str, Path]]:
        """What the files are called here and there, in the order in which they are renamed."""
        masks = loss_mask_prefix(self.prefix)
        targets: list[tuple[str, Path]] = []
        if progress.num_trained_tokens < progress.num_tokens:
            targets += [(_MASK, data_path(masks)), ("loss_mask.idx", index_path(masks))]
        if progress.num_rejects:
            targets.append((_REJECTS, rejects_path(self.prefix)))
        return [
            *targets,
            ("corpus.json", corpus_record_path(self.prefix)),
            (_TOKENS, data_path(self.prefix)),
            ("tokens.idx", index_path(self.prefix)),
        ]

    def _look_at_complete(
        self, state: dict[str, Any], job: dict[str, Any], restart: bool
    ) -> tuple[bool, dict[str, Any] | None]:
        """What is left of a run that had all: to name its files, or nothing, if they are gone.

        Returns:
            Whether there is only that left to do, and the state to go on from; None begins anew.
        """
        targets = self._targets(_from_state(state))
        inside = [(self.folder / name).exists() for name, _ in targets]
        there = [target.exists() for _, target in targets]
        if all(there) and not any(inside):  # killed in its last instant, or a moment before
            if not restart and not self._changed(job):
                return True, state
        elif all(map(any, zip(inside, there, strict=True))):
            if not restart:
                return True, state
            if not there[-1]:
                for _, target in targets:
                    target.unlink(missing_ok=True)  # renamed already, by the run before
                return False, state
        self._remove_all_but()  # its files were removed, or have nothing to do with this run
        return False, None

    def _remove_if_empty(self) -> None:
        """Leave no folder behind in which nothing is certain."""
        if not (self.folder / "state.json").exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write_state(self, *, complete: bool) -> None:
        state = {**asdict(self.progress), "complete": complete}
        write_whole(self.folder / "state.json", json.dumps(state))

    def _check_nothing_exists(self) -> None:
        masks = loss_mask_prefix(self.prefix)
        for path in (
            *(index_path(self.prefix), data_path(self.prefix), index_path(masks), data_path(masks)),
            *(corpus_record_path(self.prefix), rejects_path(self.prefix)),
        ):
            if path.exists():
                raise InputError(
                    f"{path} exists already; remove that corpus or choose another --output-prefix"
                )

    def _changed(self, job: dict[str, Any]) -> list[str]:
        """What of a job is not as it was in the run before; takes the date from there."""
        before = self._read("job.json") or {}
        now = json.loads(json.dumps(job))
        if now["date"] is None:
            now["date"] = before.get("date")
        self.job = now
        return [name for name in now if now[name] != before.get(name)]

    def _check_same(self, job: dict[str, Any]) -> None:
        changed = self._changed(job)
        if changed:
            raise InputError(
                f"{self.folder} holds an unfinished run that differs in {', '.join(changed)}; "
                f"resume it with the same inputs and options, or start over with --restart"
            )

    def _read_state(self, restart: bool) -> dict[str, Any] | None:
        try:
            return self._read("state.json")
        except InputError:
            if restart:
                return None
            raise

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{self.folder / name} is damaged ({error}); begin anew with --restart"
            ) from error
        return dict(content)

    def _remove_all_but(self, *names: str) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)  # of a file that was being replaced
            elif path.name not in names:
                path.unlink()

    def _open_files(self) -> None:
        for name in _FILES:
            path = self.folder / name
            path.touch()
            size, certain = path.stat().st_size, self.progress.sizes[name]
            if size < certain:
                raise InputError(
                    f"{path} has {size:,} bytes where {certain:,} were written; "
                    f"begin anew with --restart"
                )
            os.truncate(path, certain)
            self._files[name] = path.open("ab")

    def _close(self) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk; what did not get there is not counted on
                file.close()
        self._lock.close()


def _from_state(state: dict[str, Any]) -> Progress:
    known = {name: value for name, value in state.items() if name != "complete"}
    if set(known) != {one.name for one in fields(Progress)}:
        raise InputError(
            "the unfinished run was begun by another release of megatron-packing; begin anew with "
            "--restart"
        )
    known["downloaded"] = {number: tuple(pair) for number, pair in known["downloaded"].items()}
    known["position"] = Position(**known["position"])
    return Progress(**known)


Listener = Callable[[int, int, Progress], None]
"""Called with the bytes of input that were read, those of all inputs, and what was done so far."""
