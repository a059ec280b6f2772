# SPDX-License-Identifier: Apache-2.0
"""What a training stream is made of, and the record of it in every checkpoint.

Row i of a stream is a function of its pack indexes, their weights, a seed and i alone, and trainers
count the samples that they consumed: so a run goes on exactly where it ended if its stream is what
it was. ``packing_stream.json`` in the folder of a checkpoint (``iter_0000100``) says what it was.
Earlier releases wrote it beside those folders only, where the newest still is:

    {"format_version": 2, "streams": [STREAM, ...]}

A run has more than one stream where its data were changed on purpose; they are listed in the order
in which they were read. A stream is a dict:

    order version   of the order of packs and of the exchange between epochs (``index.order``)
    seed            decides that order
    weights         the share of samples that each dataset has
    datasets        what ``describe_packs`` says of each, and "first row": the row of the dataset
                    that it began with, which is not 0 where an earlier stream read rows of it
    first sample    how many samples of the run were consumed when the stream began

Records of version 1 hold a single stream, without the version of the order and without the digest
of each dataset's arrays. They are compared on what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.stream.order import ORDER_VERSION
from megatron_packing.stream.record_file import in_folder, read_text, write_text

RECORD = "packing_stream.json"
FORMAT_VERSION = 2

Stream = dict[str, Any]

_DIGEST = "arrays"
_STREAM_FIELDS = ("seed", "weights", "datasets")
_ADDED_IN_VERSION_2 = ("order version", _DIGEST)


def describe_packs(index: PackIndex) -> dict[str, Any]:
    """What decides the packs of an index, in JSON's types; where its files are does not."""
    return {
        "corpus": index.corpus.fingerprint,
        "first document": index.corpus.first_document,
        "documents": index.corpus.num_documents,
        **asdict(index.plan),
        "packs": len(index),
        _DIGEST: index.digest,
    }


def describe_stream(
    indexes: Sequence[PackIndex], *, seed: int, weights: Sequence[float] | None = None
) -> Stream:
    """What decides every row of a stream that starts with the first row of each dataset.

    Args:
        indexes: Of its datasets.
        seed: Of the order of packs.
        weights: The share of samples that each dataset has; None for a single dataset.
    """
    return {
        "order version": ORDER_VERSION,
        "seed": seed,
        "weights": [float(weight) for weight in weights or [1.0]],
        "datasets": [{**describe_packs(index), "first row": 0} for index in indexes],
        "first sample": 0,
    }


def difference(was: Stream, now: Stream) -> str | None:
    """The first thing in which two streams differ, in words; None where they are the same.

    Where the streams began is not compared, nor is what a record of version 1 does not hold.
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
                f"{dataset} has the same settings but other packs, as an index that another "
                f"release made again may have: its digest was {str(before)[:12]} and is "
                f"{str(after)[:12]}; if the former index still exists, name it"
            )
        return f"{name} was {before} and is {after}"
    return None


def holds_digests(stream: Stream) -> bool:
    """Whether the packs themselves are compared, not only what they were planned from."""
    return all(_DIGEST in packs for packs in stream["datasets"])


def read_streams(folder: str | Path) -> list[Stream] | None:
    """The streams that the checkpoint or checkpoints in ``folder`` were trained on.

    Args:
        folder: A local one, or ``msc://...``.

    Returns:
        The streams; None without a record.

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
            f"wrote it; use that release, or remove the file to go on without it"
        )
    if not isinstance(streams, list) or not streams or not all(map(_is_stream, streams)):
        raise InputError(f"{path} is damaged: it does not describe streams; restore or remove it")
    for stream in streams:
        stream.setdefault("first sample", 0)
        for packs in stream["datasets"]:
            packs.setdefault("first row", 0)
    return streams


def write_streams(folder: str | Path, streams: Sequence[Stream]) -> None:
    """Write the record of a run's streams into a folder, which is made if need be, whole."""
    record = {"format_version": FORMAT_VERSION, "streams": list(streams)}
    write_text(in_folder(folder, RECORD), json.dumps(record, indent=2) + "\n")


def go_on(streams: Sequence[Stream], now: Stream, consumed: int) -> list[Stream] | None:
    """The streams of a run that goes on with ``now`` after ``consumed`` samples.

    The last of them is ``now`` and says where it began. A stream that began at or after this
    sample is left out, as after a checkpoint from before it was loaded.

    Args:
        streams: What ``read_streams`` gave.
        now: What ``describe_stream`` gives of the run's data.
        consumed: Samples that the checkpoint consumed.

    Returns:
        The streams; None where ``now`` is not the stream that the checkpoint was read from.
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
    """The streams of a run that goes on with other data, ``now``, after ``consumed`` samples.

    A dataset that an earlier stream read, in the same packs and order, goes on with its first
    unread row; any other begins with its first row.

    Args:
        streams: What ``read_streams`` gave.
        now: What ``describe_stream`` gives of the new data.
        consumed: Samples that the checkpoint consumed.
        count_rows: Given the weights of a stream and a number of samples, the rows of each dataset
            among the first so many samples.
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
    """The streams that the first ``consumed`` samples of a run were read from."""
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
    """A stream without where it and its datasets began."""
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
