# SPDX-License-Identifier: Apache-2.0
"""Starts one rank of a run on the corpora of a folder, and prints what that took.

    startup_rank.py FOLDER first|other BLEND [--given]

Used by ``startup.py``, which preloads ``count_files.c``. The first rank prints what it hands on,
after its figures; another rank reads that from its input.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import megatron.core
from megatron.core.tokenizers import MegatronTokenizer

from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.dataset_builder import PackedDatasetBuilder
from megatron_packing.megatron.indexes import open_indexes, opened_data

COUNTS = ("opened", "looked at", "listed", "reads", "bytes read")
ROW = 4096


def private_bytes() -> int:
    """Return the memory of this process that it shares with no file and no other process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(fields["Anonymous"]) * 1024


def counted() -> dict[str, int]:
    """Return what the preloaded library has counted."""
    counts = (ctypes.c_long * len(COUNTS)).in_dll(ctypes.CDLL(None), "file_counts")
    return dict(zip(COUNTS, counts, strict=True))


def make_config(folder: Path, blend: list[str], given: bool) -> PackedDatasetConfig:
    """Return the config of a run that trains on all corpora."""
    library = "null" if megatron.core.__version__ < "0.17" else "null-text"
    indexes = [f"{prefix}_packs" for prefix in blend] if given else []
    return PackedDatasetConfig(
        random_seed=1,
        sequence_length=ROW,
        split="100,0,0",
        blend=(blend, [1.0] * len(blend)),
        path_to_cache=str(folder / "cache"),
        tokenizer=MegatronTokenizer.from_pretrained(
            metadata_path={"library": library}, vocab_size=256
        ),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        packing_indexes=tuple(indexes),
    )


def main() -> None:
    """Start."""
    folder, role, blend = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split()
    config = make_config(folder, blend, "--given" in sys.argv)
    text = sys.stdin.read() if role == "other" else ""
    before, memory = counted(), private_bytes()
    started, worked = time.perf_counter(), time.process_time()
    if role == "first":
        open_indexes(config)
        text = opened_data(config).as_text()
    else:
        opened = opened_data(config)
        opened.adopt(text)
        config.packing_shape = opened.shape
    config.path_to_cache = None  # of Megatron's blends, which has nothing to do with packs
    train, _, _ = PackedDatasetBuilder(PackedDataset, [1000, 0, 0], lambda: True, config).build()
    figures: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "processor seconds": time.process_time() - worked,
        **{name: count - before[name] for name, count in counted().items()},
        "private bytes": private_bytes() - memory,
        "rows": len(train),
        "handed on": len(text),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    if role == "first":
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
