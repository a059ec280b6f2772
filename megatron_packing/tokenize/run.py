# SPDX-License-Identifier: Apache-2.0
"""Runs tokenization: reads records, encodes them with workers, and writes a corpus.

This process reads records in order and writes documents in order. So the bytes of the corpus depend
neither on the number of workers nor on the engine.
"""

from __future__ import annotations

import datetime
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from megatron_packing.chat.find_template import find_templates
from megatron_packing.corpus.storage import corpus_path, is_remote
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.records.batches import UNREADABLE_FILE, RecordBatch
from megatron_packing.records.digests import Digests, reading_digests
from megatron_packing.records.input_file import InputFile
from megatron_packing.records.inputs import find_changed, find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.storage import StorageError, was_replaced
from megatron_packing.schemas.table import RECOGNIZED_BY, SCHEMAS
from megatron_packing.tokenize.encoded_batch import Reject
from megatron_packing.tokenize.engine import Engine, InProcessEngine, OnWorkers, Results
from megatron_packing.tokenize.options import EncoderOptions, EncodingOptions
from megatron_packing.tokenize.process_engine import ProcessEngine
from megatron_packing.tokenize.progress import Listener, Progress
from megatron_packing.tokenize.provenance import describe_corpus, describe_job
from megatron_packing.tokenize.unfinished import UnfinishedCorpus, unfinished_path
from megatron_packing.tokenizers.process import find_tokenizer_apart
from megatron_packing.tokenizers.source import token_dtype

EngineName = Literal["local", "ray"]
OnBadRecord = Literal["error", "skip"]

LARGEST_LIMIT = 1 << 31
"""``max_record_bytes`` must be less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeOptions(EncodingOptions):
    """What is tokenized, and how."""

    inputs: Sequence[str | Path]
    """Paths, globs and URLs of records, read in this order."""
    output_prefix: Path
    """The prefix of the new corpus."""
    tokenizer: str
    """A folder, a file or a name; see ``find_tokenizer``."""
    chat_template: str | Path | None = None
    """A Jinja file or a name; see ``find_templates``. None uses the tokenizer's own template."""
    on_bad_record: OnBadRecord = "error"
    """Stop at the first bad record, or write bad records to ``PREFIX_rejects.jsonl``."""
    engine: EngineName = "local"
    """Processes of this machine, or a Ray cluster."""
    workers: int | None = 1
    """The number of encoders; None is one per core."""
    restart: bool = False
    """Discard the work of an unfinished run."""
    checkpoint_seconds: float = 10.0
    """Seconds between checkpoints; a killed run loses at most this much."""


def tokenize(
    options: TokenizeOptions,
    on_progress: Listener | None = None,
    on_find: Callable[[int, int], None] | None = None,
    on_workers: OnWorkers | None = None,
) -> Progress:
    """Tokenize records into the corpus ``PREFIX.bin/.idx``.

    This also writes ``PREFIX_loss_mask.bin/.idx``, unless every token is trained;
    ``PREFIX_corpus.json``, which describes how the corpus was made; and ``PREFIX_rejects.jsonl``,
    which lists records that were not used, if any. A stopped run resumes when this is called again
    with the same options; workers and engine may differ.

    Args:
        options: What is tokenized, and how.
        on_progress: Called with the bytes of input read so far, the bytes of all inputs, and the
            progress.
        on_find: Called before that, with the number of inspected inputs and of all inputs.
        on_workers: Called when the number of workers on a Ray cluster, or of their nodes, has
            changed.

    Returns:
        The counts of the finished run.

    Raises:
        InputError: An option, an input, the tokenizer or the template cannot be used, the corpus
            exists, a record is bad and ``on_bad_record`` is ``error``, or the disk is full. The
            corpus does not exist then.
    """
    if options.schema is not None and options.schema not in SCHEMAS:
        raise InputError(f"--schema is {options.schema!r}; it must be one of {', '.join(SCHEMAS)}")
    if not 0 < options.max_record_bytes < LARGEST_LIMIT:
        raise InputError(
            f"--max-record-bytes is {options.max_record_bytes}; it must be positive and under 2 GiB"
        )
    if options.date is not None:
        try:
            datetime.date.fromisoformat(options.date)
        except ValueError as error:
            raise InputError(
                f"--date is {options.date!r}; it must be a day such as 2026-01-31"
            ) from error
    if is_remote(options.output_prefix):
        raise InputError(
            f"--output-prefix is the address {corpus_path(options.output_prefix)}; a corpus is "
            f"written to a local folder: give a path, and copy the files from there"
        )
    if not options.output_prefix.name or options.output_prefix.is_dir():
        raise InputError(
            f"--output-prefix is '{options.output_prefix}', a folder; add the name with which the "
            f"files of the corpus start"
        )
    engine = _make_engine(options.engine, options.workers, on_workers)
    inputs = find_inputs([str(pattern) for pattern in options.inputs], on_find, RECOGNIZED_BY)
    encoder_options = _encoder_options(options)
    prefix = options.output_prefix
    job = describe_job(inputs, encoder_options)
    with _machine_errors(prefix), UnfinishedCorpus(prefix, job, options.restart) as unfinished:
        if unfinished.complete:
            unfinished.finish_publishing()
            return unfinished.progress
        encoder_options = replace(encoder_options, date=unfinished.job["date"])
        with reading_digests(inputs, unfinished.progress.downloaded) as digests:
            batches = _unread(inputs, unfinished, options, digests)
            with (
                engine(encoder_options) as encoders,
                closing(encoders.encode(batches)) as results,
            ):
                vocabulary_size = encoders.vocabulary_size
                try:
                    _write(options, inputs, results, unfinished, on_progress)
                except StorageError:
                    if unfinished.progress.num_records:
                        unfinished.checkpoint()  # the next run resumes from here
                    raise
            progress = unfinished.progress
            progress.unmatched_mappings = [
                mapping
                for mapping in options.names.mappings()
                if mapping not in progress.matched_mappings
            ]
            _check(inputs, unfinished)
            hashes = digests.all()
        lengths = unfinished.lengths()
        record = describe_corpus(
            *(inputs, hashes, encoder_options, progress, lengths, vocabulary_size)
        )
        unfinished.publish(token_dtype(vocabulary_size), record)
    return progress


def _make_engine(name: EngineName, workers: int | None, on_workers: OnWorkers | None) -> Engine:
    """Return an engine.

    Args:
        name: ``local`` for processes of this machine, ``ray`` for a Ray cluster.
        workers: The number of workers; None is one per core.
        on_workers: See ``tokenize``.

    Raises:
        InputError: The number of workers is not positive, or Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    if name == "ray":
        from megatron_packing.tokenize.ray_engine import RayEngine

        return RayEngine(workers, on_workers)
    workers = workers or len(os.sched_getaffinity(0))
    return InProcessEngine() if workers == 1 else ProcessEngine(workers)


def _encoder_options(options: TokenizeOptions) -> EncoderOptions:
    source = find_tokenizer_apart(options.tokenizer)
    template, tool_template = find_templates(source, options.chat_template)
    return EncoderOptions.with_template(options, source, template, tool_template)


def _unread(
    inputs: list[InputFile],
    unfinished: UnfinishedCorpus,
    options: TokenizeOptions,
    digests: Digests,
) -> Iterator[RecordBatch]:
    progress = unfinished.progress
    if options.on_bad_record == "error" and progress.num_rejects:
        raise InputError(
            f"{unfinished_path(options.output_prefix)} holds an unfinished run that skipped "
            f"{counted(progress.num_rejects, 'record')}; finish it with --on-bad-record skip, or "
            f"start over with --restart"
        )
    return read_batches(
        inputs, progress.position, options.max_record_bytes, unfinished.folder, digests.add
    )


def _write(
    options: TokenizeOptions,
    inputs: list[InputFile],
    results: Results,
    unfinished: UnfinishedCorpus,
    on_progress: Listener | None,
) -> None:
    total = sum(file.size for file in inputs)
    if on_progress is not None:
        position = unfinished.progress.position
        before = sum(file.size for file in inputs[: position.input])
        on_progress(before + position.offset, total, unfinished.progress)
    last_checkpoint = time.monotonic()
    for batch, encoded in results:
        file = inputs[batch.input]
        for reject in encoded.rejects:
            if reject.kind == UNREADABLE_FILE:
                raise _ends_early(file, reject)
            if options.on_bad_record == "error":
                raise InputError(
                    f"{file.name}, {file.unit} {reject.number} cannot be used: {reject.reason} "
                    f"(give --on-bad-record skip to skip such records)"
                )
        unfinished.add(file, batch, encoded)
        if time.monotonic() - last_checkpoint >= options.checkpoint_seconds:
            unfinished.checkpoint()
            last_checkpoint = time.monotonic()
        if on_progress is not None:
            on_progress(batch.progress, total, unfinished.progress)


def _ends_early(file: InputFile, rest: Reject) -> InputError:
    """Nobody knows how many records the rest of a file holds, so it cannot be skipped as one."""
    return InputError(
        f"{file.name}, {file.unit} {rest.number}: {rest.reason}; copy the file again, or make a "
        f"file of what comes before, and start over with --restart"
    )


def _check(inputs: list[InputFile], unfinished: UnfinishedCorpus) -> None:
    progress = unfinished.progress
    if progress.num_records != progress.num_documents + progress.num_rejects:
        raise RuntimeError(
            f"{progress.num_records} records became {progress.num_documents} documents and "
            f"{progress.num_rejects} rejects: this is a defect of megatron-packing"
        )
    changed = find_changed(inputs)
    if changed is not None:
        raise was_replaced(changed.name)
    if progress.num_documents == 0:
        names = ", ".join(file.name for file in inputs[:3]) + (", ..." if len(inputs) > 3 else "")
        names += " holds" if len(inputs) == 1 else " hold"
        if progress.num_records == 0:
            what = {"array": "an empty array"}.get(inputs[0].format, "only blank lines")
            what = what if inputs[0].size else "empty"
            raise InputError(f"{names} no record ({what}); nothing was written")
        raise InputError(
            f"{names} no record that can be used, so nothing was written; the "
            f"{'' if progress.num_rejects == 1 else 'first '}reject is {unfinished.first_reject()}"
        )


@contextmanager
def _machine_errors(prefix: Path) -> Iterator[None]:
    """Convert the errors of a full disk or a read-only folder to InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"the disk is full ({error.strerror}) and {prefix} is not finished; free space and "
                f"run the same command again to resume"
            ) from error
        ours = str(error.filename or "").startswith(str(prefix.parent))
        if ours and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise InputError(
                f"{prefix} cannot be written ({error.strerror}: {error.filename}); choose another "
                f"--output-prefix"
            ) from error
        raise
