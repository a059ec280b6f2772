"""Proves that a resumed run goes on with the documents that its checkpoint left off at.

Sample i of a training dataset is a function of its pack indexes, the seed and i alone, and Megatron
counts samples: so a run goes on exactly where its datasets are what they were. What they were is
kept in ``packing_stream.json`` in the folder of the checkpoints.
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.blended_dataset import BlendedDataset

from megatron_packing.errors import InputError
from megatron_packing.files import write_whole
from megatron_packing.megatron.dataset import PackedDataset

logger = logging.getLogger(__name__)

RECORD = "packing_stream.json"
_FORMAT_VERSION = 1


def describe_stream(dataset: PackedDataset | BlendedDataset) -> dict[str, Any]:
    """What decides the documents of every sample, and nothing that does not."""
    datasets = dataset.datasets if isinstance(dataset, BlendedDataset) else [dataset]
    return {
        "format_version": _FORMAT_VERSION,
        "seed": dataset.config.random_seed,
        "weights": [float(weight) for weight in getattr(dataset, "weights", None) or [1.0]],
        "datasets": [
            {
                "corpus": part.index.corpus.fingerprint,
                "first document": part.index.corpus.first_document,
                "documents": part.index.corpus.num_documents,
                **asdict(part.index.plan),
                "packs": len(part.index),
            }
            for part in datasets
        ],
    }


def recorded_alignment(args: Namespace, smallest: int) -> int | None:
    """The alignment of the packs that the checkpoint to resume from was trained on.

    So a run that started under context parallelism keeps its packs without it. None where there is
    no record, or it is no multiple of ``smallest``: then ``check_stream`` will say so.
    """
    record = _read_record(Path(args.load)) if _resumes(args) else None
    if record is None:
        return None
    alignments = {part["alignment"] for part in record["datasets"]}
    fits = len(alignments) == 1 and not next(iter(alignments)) % smallest
    return alignments.pop() if fits else None


def check_stream(dataset: PackedDataset | BlendedDataset, args: Namespace) -> None:
    """Refuse to go on with other data than the checkpoint's; keep this run's record.

    Args:
        dataset: For training.
        args: Megatron's arguments, with a checkpoint's consumed samples where one was loaded.

    Raises:
        InputError: The datasets differ, and ``--packing-new-stream`` was not given.
    """
    stream = describe_stream(dataset)
    if _resumes(args) and not args.packing_new_stream:
        record = _read_record(Path(args.load))
        if record is None:
            logger.warning(
                f"{Path(args.load) / RECORD} does not exist, so nothing proves that the data of "
                f"this run are those of its checkpoint"
            )
        elif record != stream:
            raise InputError(
                f"{Path(args.load) / RECORD} says that the checkpoint was trained on other packs "
                f"({_difference(record, stream)}), so its {args.consumed_train_samples:,} consumed "
                f"samples are not the first of these; give what it was trained with, or "
                f"--packing-new-stream to go on with the new data"
            )
    if args.save and not args.packing_new_stream:
        _refuse_other_checkpoints(Path(args.save), stream)
    is_first_rank = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if args.save and is_first_rank:
        folder = Path(args.save)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECORD, json.dumps(stream, indent=2) + "\n")


def _resumes(args: Namespace) -> bool:
    """Whether samples were consumed before; with --finetune Megatron counts from 0."""
    return bool(args.load) and args.consumed_train_samples > 0


def _refuse_other_checkpoints(folder: Path, stream: dict[str, Any]) -> None:
    """The record of a folder is that of all its checkpoints, so they are of one stream."""
    has_checkpoints = (folder / "latest_checkpointed_iteration.txt").exists()
    record = _read_record(folder)
    if has_checkpoints and record is not None and record != stream:
        raise InputError(
            f"--save {folder} holds checkpoints that were trained on other packs "
            f"({_difference(record, stream)}): give another folder, or --packing-new-stream"
        )


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore or remove it") from error
    if not isinstance(record, dict) or record.get("format_version") != _FORMAT_VERSION:
        raise InputError(f"{path} was written by another release; remove it to go on without it")
    return record


def _difference(record: dict[str, Any], stream: dict[str, Any]) -> str:
    """The first thing that differs, as words."""
    was, now = _flat(record), _flat(stream)
    name = next(name for name in {**was, **now} if was.get(name) != now.get(name))
    return f"{name} was {was.get(name)} and is {now.get(name)}"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [(f"{name} {key}".strip(), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{name} {i}", part) for i, part in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for path, part in parts for key, leaf in _flat(part, path).items()}
