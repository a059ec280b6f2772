# SPDX-License-Identifier: Apache-2.0
"""Writes a corpus in a folder beside it, from which a killed run can resume.

``PREFIX.unfinished/`` holds the files of the corpus, which grow, and ``state.json``, which is
replaced every few seconds. ``state.json`` has the durable bytes of each file and the position where
the inputs are read next. A run that resumes truncates each file to its durable bytes. Complete
files are renamed to their final names, the ``.idx`` of the tokens last.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from megatron_packing.corpus.corpus import corpus_record_path, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import data_path, index_path, write_index
from megatron_packing.corpus.known_files import describe_files
from megatron_packing.errors import InputError
from megatron_packing.files.publication import rename_new
from megatron_packing.files.whole import prefix_lock, sync, write_whole
from megatron_packing.records.batches import RecordBatch
from megatron_packing.records.input_file import InputFile
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.progress import Progress, other_release

_TOKENS, _MASK, _LENGTHS, _REJECTS = "tokens", "loss_mask", "lengths", "rejects"
_FILES = (_TOKENS, _MASK, _LENGTHS, _REJECTS)  # these grow during a run
_TOKENS_INDEX, _MASK_INDEX, _RECORD = "tokens.idx", "loss_mask.idx", "corpus.json"
_STATE, _JOB = "state.json", "job.json"


def rejects_path(prefix: Path) -> Path:
    """Return ``PREFIX_rejects.jsonl``, the list of records that were not used."""
    return prefix.with_name(prefix.name + "_rejects.jsonl")


def unfinished_path(prefix: Path) -> Path:
    """Return ``PREFIX.unfinished``, the folder in which a corpus is written."""
    return prefix.with_name(prefix.name + ".unfinished")


class UnfinishedCorpus:
    """The files of a corpus that is being written. Use it as a context manager.

    Only one process at a time can write a corpus.
    """

    def __init__(self, prefix: Path, job: dict[str, Any], restart: bool = False) -> None:
        """Start a run, or resume an unfinished one.

        Args:
            prefix: The prefix of the corpus.
            job: Everything that decides its bytes; see ``describe_job``. A run resumes only with
                the same job. If the date is None, it is the day on which the run started.
            restart: Discard the work of an unfinished run.

        Raises:
            InputError: The corpus exists, another process is writing it, or the unfinished run has
                another job.
        """
        self.prefix = prefix
        self.folder = unfinished_path(prefix)
        self.progress = Progress(sizes=dict.fromkeys(_FILES, 0))
        """Everything added; only what ``state.json`` records is durable."""
        self.job = {**job, "date": job["date"] or datetime.date.today().isoformat()}
        self._files: dict[str, BinaryIO] = {}
        self._lock = ExitStack()
        self._lock.enter_context(prefix_lock(prefix))
        try:
            self.folder.mkdir(exist_ok=True)
            state = self._read_state(restart)
            complete = state is not None and bool(state.get("complete"))
            if state is not None and complete:
                complete, state = self._check_complete(state, job, restart)
            if not complete:
                self._check_nothing_exists()
                if restart:
                    self._remove_all_but()
                    state = None
            if state is None:
                write_whole(self.folder / _JOB, json.dumps(self.job, indent=2))
            else:
                self._check_same(job)
                self.progress = _progress(state)
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
        """Append documents and rejects. They are durable after the next ``checkpoint``."""
        self._files[_TOKENS].write(encoded.tokens.tobytes())
        self._files[_MASK].write(encoded.loss_mask.tobytes())
        self._files[_LENGTHS].write(encoded.lengths.astype("<i4").tobytes())
        for reject in encoded.rejects:
            line = {"file": file.name, file.unit: reject.number, "reason": reject.reason}
            text = json.dumps(line, ensure_ascii=False) + "\n"
            self._files[_REJECTS].write(text.encode(errors="backslashreplace"))
        self.progress.add(file, batch, encoded)

    def checkpoint(self) -> None:
        """Make everything added durable."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.progress.sizes = {name: file.tell() for name, file in self._files.items()}
        self._write_state(complete=False)

    def publish(self, dtype: np.dtype[Any], record: dict[str, Any]) -> None:
        """Write the indexes and the corpus record, and rename all files to their final names.

        If every token is trained, the loss masks are omitted, which means the same.

        Args:
            dtype: The dtype of the tokens.
            record: The content of ``PREFIX_corpus.json``, but for ``files``.
        """
        self.checkpoint()
        lengths = self.lengths()
        write_index(self.folder / _TOKENS_INDEX, dtype, lengths)
        write_index(self.folder / _MASK_INDEX, np.dtype(np.uint8), lengths)
        masks = self.folder / _MASK_INDEX, self.folder / _MASK
        files = describe_files(
            (self.folder / _TOKENS_INDEX, self.folder / _TOKENS, dtype),
            None if self.progress.num_trained_tokens == self.progress.num_tokens else masks,
            lengths,
        )
        record = {**record, "files": files.as_json()}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.folder / _RECORD, text)
        self._write_state(complete=True)
        self.finish_publishing()

    def finish_publishing(self) -> None:
        """Rename the remaining files, the ``.idx`` last: without it the corpus does not exist."""
        for name, target in self._targets(self.progress):
            if (self.folder / name).exists():
                if target.exists() and target.samefile(self.folder / name):
                    # Killed between making the new name and removing the old one.
                    (self.folder / name).unlink()
                    continue
                try:
                    rename_new(self.folder / name, target)
                except FileExistsError as error:
                    raise InputError(
                        f"another program made {target} while this corpus was written; remove it "
                        f"and run the same command again to finish"
                    ) from error
        sync(self.prefix.parent)
        self._remove_all_but(_STATE, _JOB)
        (self.folder / _STATE).unlink()  # without it, the folder is ignored
        shutil.rmtree(self.folder)

    def first_reject(self) -> str:
        """Return the line of the first reject."""
        self._files[_REJECTS].flush()
        with (self.folder / _REJECTS).open(encoding="utf-8") as file:
            return file.readline().strip()

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the tokens of each document so far, memory-mapped."""
        self._files[_LENGTHS].flush()
        return np.memmap(self.folder / _LENGTHS, np.dtype("<i4"), "r")

    def _all_targets(self) -> list[tuple[str, Path]]:
        """Return the name in the folder and the final name of each file, in renaming order."""
        masks = loss_mask_prefix(self.prefix)
        return [
            (_MASK, data_path(masks)),
            (_MASK_INDEX, index_path(masks)),
            (_REJECTS, rejects_path(self.prefix)),
            (_RECORD, corpus_record_path(self.prefix)),
            (_TOKENS, data_path(self.prefix)),
            (_TOKENS_INDEX, index_path(self.prefix)),
        ]

    def _targets(self, progress: Progress) -> list[tuple[str, Path]]:
        """Return those of ``_all_targets`` that a corpus needs."""
        unneeded: set[str] = set()
        if progress.num_trained_tokens == progress.num_tokens:
            unneeded |= {_MASK, _MASK_INDEX}
        if not progress.num_rejects:
            unneeded.add(_REJECTS)
        return [target for target in self._all_targets() if target[0] not in unneeded]

    def _check_complete(
        self, state: dict[str, Any], job: dict[str, Any], restart: bool
    ) -> tuple[bool, dict[str, Any] | None]:
        """Find what is left to do in a run that wrote everything and was killed while renaming.

        Returns:
            Whether only renaming is left, and the state to resume from; None starts over.
        """
        targets = self._targets(_progress(state))
        inside = [(self.folder / name).exists() for name, _ in targets]
        there = [target.exists() for _, target in targets]
        if all(there) and not any(inside):  # killed after the last renaming
            if not restart and not self._changed(job):
                return True, state
        elif all(map(any, zip(inside, there, strict=True))):
            if not restart:
                return True, state
            if not there[-1]:
                for _, target in targets:
                    target.unlink(missing_ok=True)  # already renamed by the earlier run
                return False, state
        self._remove_all_but()  # its files were removed, or belong to another corpus
        return False, None

    def _remove_if_empty(self) -> None:
        """Remove the folder if nothing in it is durable."""
        if not (self.folder / _STATE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write_state(self, *, complete: bool) -> None:
        state = {**self.progress.to_state(), "complete": complete}
        write_whole(self.folder / _STATE, json.dumps(state))

    def _check_nothing_exists(self) -> None:
        for _, path in reversed(self._all_targets()):
            if path.exists():
                raise InputError(
                    f"{path} exists already; remove that corpus ({self.prefix}.bin, .idx and "
                    f"{self.prefix}_*) or choose another --output-prefix"
                )

    def _changed(self, job: dict[str, Any]) -> list[str]:
        """Return the keys of a job that differ from the unfinished run, and take its date."""
        before = self._read(_JOB) or {}
        if before and before.keys() != job.keys():
            raise other_release()
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
            return self._read(_STATE)
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
                f"{self.folder / name} is damaged ({error}); start over with --restart"
            ) from error
        return dict(content)

    def _remove_all_but(self, *names: str) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)  # left when a file was being replaced
            elif path.name not in names:
                path.unlink()

    def _open_files(self) -> None:
        for name in _FILES:
            path = self.folder / name
            path.touch()
            size, durable = path.stat().st_size, self.progress.sizes[name]
            if size < durable:
                raise InputError(
                    f"{path} has {size:,} bytes, but {durable:,} were written; "
                    f"start over with --restart"
                )
            os.truncate(path, durable)
            self._files[name] = path.open("ab")

    def _close(self) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk; state.json does not count what was lost
                file.close()
        self._lock.close()


def _progress(state: dict[str, Any]) -> Progress:
    return Progress.from_state({key: state[key] for key in state if key != "complete"})
