"""Tokenises conversations with all workers and writes a corpus.

Lines are read in order by the parent, encoded in batches by worker processes, and written in order
by the parent, so the bytes written do not depend on the number of workers. The corpus appears under
its name only when it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.chat_template import ChatTemplate
from megatron_packing.corpus.conversations import RecordError, read_conversation
from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter, data_path, index_path
from megatron_packing.corpus.tokenizer import load_chat_template, token_dtype
from megatron_packing.errors import InputError
from megatron_packing.files import sync, temporary_sibling

_BATCH_BYTES = 1 << 18
_BATCHES_PER_WORKER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeOptions:
    """What is tokenised, and how."""

    inputs: tuple[Path, ...]
    """JSON Lines files, one conversation a line, read in this order."""
    output_prefix: Path
    tokenizer: str
    """A folder, a ``tokenizer.json`` or a name."""
    chat_template: Path | None = None
    """A Jinja file; None takes the tokenizer's own template."""
    workers: int = 1
    """Processes that tokenise."""


@dataclass(slots=True)
class CorpusFigures:
    """Counts of a corpus."""

    num_documents: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    longest_document: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """Whole lines of one file, as bytes."""

    path: Path
    first_line: int
    lines: list[bytes]

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.lines))


@dataclass(frozen=True, slots=True)
class _Encoded:
    tokens: NDArray[Any]
    mask: NDArray[np.uint8]
    lengths: NDArray[np.int64]


def corpus_record_path(prefix: Path) -> Path:
    """``PREFIX_corpus.json``: how a corpus was made."""
    return prefix.with_name(prefix.name + "_corpus.json")


def tokenize(
    options: TokenizeOptions, on_progress: Callable[[int, CorpusFigures], None] | None = None
) -> CorpusFigures:
    """Tokenise conversations into ``PREFIX.bin/.idx`` and ``PREFIX_loss_mask.bin/.idx``.

    Args:
        options: What is tokenised, and how.
        on_progress: Called with the bytes of input done and the figures so far.

    Raises:
        InputError: An input, the tokenizer or the template cannot be used, or the corpus exists.
            Nothing is left behind.
    """
    _check(options)
    dtype = token_dtype(load_chat_template(options.tokenizer, options.chat_template).tokenizer)
    prefix = options.output_prefix
    figures = CorpusFigures()
    bytes_done = 0
    with temporary_sibling(prefix) as folder:
        unfinished = folder / prefix.name
        with (
            IndexedDatasetWriter(unfinished, dtype) as tokens,
            IndexedDatasetWriter(loss_mask_prefix(unfinished), np.dtype(np.uint8)) as masks,
            closing(_encode_in_order(options, dtype)) as batches,
        ):
            for batch, encoded in batches:
                tokens.add(encoded.tokens, encoded.lengths)
                masks.add(encoded.mask, encoded.lengths)
                _count(figures, encoded)
                bytes_done += batch.num_bytes
                if on_progress is not None:
                    on_progress(bytes_done, figures)
        if figures.num_documents == 0:
            names = ", ".join(map(str, options.inputs))
            raise InputError(f"{names} holds no conversations; nothing was written")
        _write_record(options, figures, corpus_record_path(unfinished))
        _publish(unfinished, prefix)
    return figures


def _check(options: TokenizeOptions) -> None:
    for path in options.inputs:
        if not path.is_file():
            raise InputError(f"the input {path} does not exist or is not a file")
    existing = index_path(options.output_prefix)
    if existing.exists():
        raise InputError(
            f"{existing} exists already; remove that corpus or choose another --output-prefix"
        )
    if options.workers < 1:
        raise InputError(f"--workers is {options.workers}; it must be at least 1")


def _publish(unfinished: Path, prefix: Path) -> None:
    """Rename all files to their names; the ``.idx``, without which there is no corpus, is last."""
    masks, unfinished_masks = loss_mask_prefix(prefix), loss_mask_prefix(unfinished)
    for source, target in (
        (data_path(unfinished_masks), data_path(masks)),
        (index_path(unfinished_masks), index_path(masks)),
        (corpus_record_path(unfinished), corpus_record_path(prefix)),
        (data_path(unfinished), data_path(prefix)),
        (index_path(unfinished), index_path(prefix)),
    ):
        source.replace(target)
    sync(prefix.parent)


def _write_record(options: TokenizeOptions, figures: CorpusFigures, path: Path) -> None:
    record = {
        "inputs": [str(path) for path in options.inputs],
        "tokenizer": options.tokenizer,
        "chat_template": str(options.chat_template) if options.chat_template else None,
        **asdict(figures),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sync(path)


def _count(figures: CorpusFigures, encoded: _Encoded) -> None:
    figures.num_documents += len(encoded.lengths)
    figures.num_tokens += len(encoded.tokens)
    figures.num_trained_tokens += int(encoded.mask.sum())
    figures.longest_document = max(figures.longest_document, int(encoded.lengths.max(initial=0)))


def _read_batches(paths: tuple[Path, ...]) -> Iterator[_Batch]:
    for path in paths:
        lines: list[bytes] = []
        first_line, size = 1, 0
        with path.open("rb") as file:
            for line in file:
                lines.append(line)
                size += len(line)
                if size >= _BATCH_BYTES:
                    yield _Batch(path, first_line, lines)
                    first_line += len(lines)
                    lines, size = [], 0
        if lines:
            yield _Batch(path, first_line, lines)


def _encode_in_order(
    options: TokenizeOptions, dtype: np.dtype[Any]
) -> Generator[tuple[_Batch, _Encoded], None, None]:
    arguments = (options.tokenizer, options.chat_template, dtype)
    batches = _read_batches(options.inputs)
    if options.workers == 1:
        encoder = _Encoder(*arguments)
        for batch in batches:
            yield batch, encoder.encode(batch)
        return
    # Fresh processes: a tokenizer's own threads do not survive a fork.
    pool = ProcessPoolExecutor(
        options.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=arguments,
    )
    pending: deque[tuple[_Batch, Future[_Encoded]]] = deque()
    not_ours = set(multiprocessing.active_children())
    try:
        for batch in batches:
            pending.append((batch, pool.submit(_encode_in_worker, batch)))
            if len(pending) >= options.workers * _BATCHES_PER_WORKER:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a tokenizing worker died, most likely for want of memory; try fewer --workers"
        ) from error
    except BaseException:
        # A worker that has a result to hand over would wait for ever for somebody to take it.
        for worker in set(multiprocessing.active_children()) - not_ours:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Encoder:
    """Turns lines into tokens; one lives in each worker."""

    def __init__(self, tokenizer: str, chat_template: Path | None, dtype: np.dtype[Any]) -> None:
        self._template: ChatTemplate = load_chat_template(tokenizer, chat_template)
        self._dtype = dtype

    def encode(self, batch: _Batch) -> _Encoded:
        tokens: list[NDArray[Any]] = []
        masks: list[NDArray[np.uint8]] = []
        for number, line in enumerate(batch.lines, batch.first_line):
            if not line.strip():
                continue
            try:
                ids, mask = self._template.encode(read_conversation(_parse(line)))
            except RecordError as error:
                raise InputError(f"{batch.path}, line {number} cannot be used: {error}") from error
            tokens.append(ids.astype(self._dtype))
            masks.append(mask)
        lengths = np.asarray([len(ids) for ids in tokens], np.int64)
        if not tokens:
            return _Encoded(np.empty(0, self._dtype), np.empty(0, np.uint8), lengths)
        return _Encoded(np.concatenate(tokens), np.concatenate(masks), lengths)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise RecordError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"it is not JSON ({error.msg} at column {error.colno})") from error


_encoder: _Encoder | None = None


def _start_worker(tokenizer: str, chat_template: Path | None, dtype: np.dtype[Any]) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _encoder = _Encoder(tokenizer, chat_template, dtype)


def _encode_in_worker(batch: _Batch) -> _Encoded:
    if _encoder is None:
        raise AssertionError("the worker was not started")
    return _encoder.encode(batch)
