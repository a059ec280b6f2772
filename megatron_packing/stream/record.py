# SPDX-License-Identifier: Apache-2.0
"""Describes training streams, and reads and writes their record, ``packing_stream.json``.

Row i of a stream depends only on its pack indexes, their weights, a seed and i. Trainers count the
samples that they consumed. So a run resumes exactly where it ended if its stream is unchanged.
``packing_stream.json`` in the folder of a checkpoint (``iter_0000100``) describes the stream. A
copy of the newest one is beside these folders, where earlier releases wrote the only one:

    {"format_version": 2, "streams": [STREAM, ...]}

A run has more than one stream if its data was changed on purpose; the streams are listed in the
order in which they were read. A stream is a dict:

    order version   version of the order of packs and of the exchange between epochs
                    (``stream.order``)
    seed            seed of that order
    order           settings of ``stream.even_order``; only if the run has that order
    weights         share of samples of each dataset
    datasets        for each, the result of ``describe_packs``, and "first row": the dataset's first
                    row in this stream, greater than 0 if an earlier stream read rows of it
    first sample    number of samples that the run consumed before the stream started

Records of version 1 hold a single stream, without the order version and without the digest of each
dataset's arrays. Only the fields that they have are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.stream.order import ORDER_VERSION
from megatron_packing.stream.record_file import in_folder, read_text, write_text

RECORD = "packing_stream.json"
FORMAT_VERSION = 2

Stream = dict[str, Any]

_DIGEST = "arrays"
_STREAM_FIELDS = ("seed", "weights", "datasets")
_ADDED_IN_VERSION_2 = ("order version", _DIGEST)


def describe_packs(index: PackIndex) -> dict[str, Any]:
    """Return everything that determines the packs of an index, in JSON types."""
    return {
        "corpus": index.corpus.fingerprint,
        "first document": index.corpus.first_document,
        "documents": index.corpus.num_documents,
        **asdict(index.plan),
        "packs": len(index),
        _DIGEST: index.digest,
    }


def describe_stream(
    indexes: Sequence[PackIndex],
    *,
    seed: int,
    weights: Sequence[float] | None = None,
    order: EvenSettings | None = None,
) -> Stream:
    """Describe a stream that starts at the first row of each dataset.

    Args:
        indexes: The pack indexes of its datasets.
        seed: The seed of the order of packs.
        weights: The share of samples of each dataset; None for a single dataset.
        order: The even order of the packs; None for the random one.
    """
    return {
        "order version": ORDER_VERSION,
        "seed": seed,
        **({} if order is None else {"order": asdict(order)}),
        "weights": [float(weight) for weight in weights or [1.0]],
        "datasets": [{**describe_packs(index), "first row": 0} for index in indexes],
        "first sample": 0,
    }


def difference(was: Stream, now: Stream) -> str | None:
    """Describe the first difference between two streams; None if they are the same.

    The starts of the streams are not compared, nor fields that a record of version 1 lacks.
    """
    counts = len(was["datasets"]), len(now["datasets"])
    if counts[0] != counts[1]:
        return f"the number of datasets was {counts[0]} and is {counts[1]}"
    flat_was, flat_now = _flat(_compared(was)), _flat(_compared(now))
    for name in {**flat_was, **flat_now}:
        field = _last_field(name)
        if name not in flat_was and field in _ADDED_IN_VERSION_2:
            continue
        before, after = flat_was.get(name), flat_now.get(name)
        if before == after:
            continue
        if field == _DIGEST:
            dataset = name.removesuffix(f" {_DIGEST}")
            return (
                f"{dataset} has the same settings but other packs, for example because another "
                f"release rebuilt the index: its digest was {str(before)[:12]} and is "
                f"{str(after)[:12]}; if the old index still exists, give that one"
            )
        return f"{name} was {before} and is {after}"
    return None


def even_settings_of(stream: Stream) -> EvenSettings | None:
    """Return the settings of a stream's even order; None if its order is random.

    Raises:
        InputError: The record has other settings than this release knows.
    """
    found = stream.get("order")
    if found is None:
        return None
    try:
        return EvenSettings(**found)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{RECORD} describes an order of packs that this release does not know ({error}); use "
            f"the release that wrote it"
        ) from None


def holds_digests(stream: Stream) -> bool:
    """Whether a stream has digests of its packs, so that the packs themselves are compared."""
    return all(_DIGEST in packs for packs in stream["datasets"])


def read_streams(folder: str | Path) -> list[Stream] | None:
    """Return the streams that the checkpoints in ``folder`` were trained on.

    Args:
        folder: A local folder, or ``msc://...``.

    Returns:
        The streams; None if there is no record.

    Raises:
        InputError: The record cannot be read or was written by a later release.
    """
    path = in_folder(folder, RECORD)
    try:
        text = read_text(path)
        if text is None:
            return None
        record = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore or remove it") from error
    version = record.get("format_version") if isinstance(record, dict) else None
    if version == 1:
        streams = [{name: value for name, value in record.items() if name != "format_version"}]
    elif version == FORMAT_VERSION:
        streams = record.get("streams")
    else:
        raise InputError(
            f"{path} is not a record of format version 1 or {FORMAT_VERSION}, so another release "
            f"wrote it; use that release, or remove the file to continue without it"
        )
    if not isinstance(streams, list) or not streams or not all(map(_is_stream, streams)):
        raise InputError(f"{path} is damaged: it does not describe streams; restore or remove it")
    for stream in streams:
        stream.setdefault("first sample", 0)
        for packs in stream["datasets"]:
            packs.setdefault("first row", 0)
    return streams


def write_streams(folder: str | Path, streams: Sequence[Stream]) -> None:
    """Write the record of a run's streams into a folder, atomically; create it if needed."""
    record = {"format_version": FORMAT_VERSION, "streams": list(streams)}
    write_text(in_folder(folder, RECORD), json.dumps(record, indent=2) + "\n")


def go_on(streams: Sequence[Stream], now: Stream, consumed: int) -> list[Stream] | None:
    """Return the streams of a run that continues with ``now`` after ``consumed`` samples.

    The last stream is ``now`` with its original start. Streams that started at or after this sample
    are left out: the run loaded a checkpoint from before them.

    Args:
        streams: The result of ``read_streams``.
        now: The result of ``describe_stream`` for the run's data.
        consumed: Samples that the checkpoint consumed.

    Returns:
        The streams; None if ``now`` is not the stream of the checkpoint.
    """
    read = _read_by(streams, consumed)
    begun = [
        *read,
        *(one for one in streams if one["first sample"] == consumed and one not in read),
    ]
    for candidates in (begun, read):
        if difference(candidates[-1], now) is None:
            return [*candidates[:-1], _with_beginning(now, candidates[-1])]
    return None


def begin_new(
    streams: Sequence[Stream],
    now: Stream,
    consumed: int,
    count_rows: Callable[[Sequence[float], int], Sequence[int]],
) -> list[Stream]:
    """Return the streams of a run that continues with other data, ``now``.

    If an earlier stream read a dataset with the same packs and order, the dataset continues at its
    first unread row. Any other dataset starts at its first row.

    Args:
        streams: The result of ``read_streams``.
        now: The result of ``describe_stream`` for the new data.
        consumed: Samples that the checkpoint consumed.
        count_rows: Function of a stream's weights and a number n of samples. Returns how many of
            the first n samples are rows of each dataset.
    """
    read = _read_by(streams, consumed)
    begun = {**now, "first sample": consumed}
    unread = [dict(packs) for packs in now["datasets"]]
    unmatched = list(range(len(unread)))
    ends = [*(stream["first sample"] for stream in read[1:]), consumed]
    for stream, end in reversed(list(zip(read, ends, strict=True))):
        counts = count_rows(stream["weights"], end - stream["first sample"])
        for packs, count in zip(stream["datasets"], counts, strict=True):
            for i in unmatched:
                one = {**stream, "datasets": [packs], "weights": []}
                other = {**now, "datasets": [unread[i]], "weights": []}
                if difference(one, other) is None:
                    unread[i]["first row"] = packs["first row"] + count
                    unmatched.remove(i)
                    break
    return [*read, {**begun, "datasets": unread}]


def _read_by(streams: Sequence[Stream], consumed: int) -> list[Stream]:
    """Return the streams that the first ``consumed`` samples of a run were read from."""
    return [stream for stream in streams if stream["first sample"] < consumed] or [streams[0]]


def _with_beginning(now: Stream, beginning: Stream) -> Stream:
    rows = [packs["first row"] for packs in beginning["datasets"]]
    return {
        **now,
        "datasets": [
            {**packs, "first row": row} for packs, row in zip(now["datasets"], rows, strict=True)
        ],
        "first sample": beginning["first sample"],
    }


def _is_stream(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(name in value for name in _STREAM_FIELDS)
        and isinstance(value["weights"], list)
        and isinstance(value["datasets"], list)
        and all(isinstance(packs, dict) for packs in value["datasets"])
        and isinstance(value.get("first sample", 0), int)
        and all(isinstance(packs.get("first row", 0), int) for packs in value["datasets"])
    )


def _compared(stream: Stream) -> Stream:
    """Return a stream without the starts of it and its datasets."""
    return {
        **{name: value for name, value in stream.items() if name != "first sample"},
        "datasets": [
            {name: value for name, value in packs.items() if name != "first row"}
            for packs in stream["datasets"]
        ],
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [(f"{name} {key}".strip(), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{name} {i}", part) for i, part in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for path, part in parts for key, leaf in _flat(part, path).items()}


def _last_field(name: str) -> str:
    return name if name in _ADDED_IN_VERSION_2 else name.rsplit(" ", 1)[-1]
