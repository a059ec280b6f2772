# SPDX-License-Identifier: Apache-2.0
"""Starts several small runs at once, in each of which a rank fails, and prints how each rank ends.

    start_badly.py FOLDER

FOLDER holds corpora. Each run has three ranks, which are forked. The last one reads no data. Prints
JSON: for each run and rank, what it said and after how many seconds it ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch

from megatron_packing.errors import InputError
from megatron_packing.megatron import cached_indexes, indexes
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.dataset_builder import PackedDatasetBuilder
from tests.forked_ranks import free_port
from tests.megatron.test_dataset import ROW, null_tokenizer

RANKS = 3
SECONDS = 500  # less than the 10 minutes for which ranks wait for rank 0
TOKENIZER = null_tokenizer()
RUNS = ("killed", "apart", "none free", "256 files", "forbidden")


def leave_descriptors(count: int) -> None:
    """Let this process open so many files more."""
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + count, hard))


def spoil(run: str, rank: int, folder: Path) -> None:
    """Make one rank fail."""
    if run == "killed" and rank == 0:
        cached_indexes.build_pack_index = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    if run == "apart":  # one name, two folders: as on disks of two nodes
        own = folder / f"node {min(rank, 1)}"
        own.mkdir(exist_ok=True)
        os.chdir(own)
    if rank == 2 or (run == "none free" and rank == 1):
        leave_descriptors(0)
    if run == "256 files" and rank == 1:
        lowest_free = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest_free)
        leave_descriptors(256 - lowest_free)
    if run == "forbidden" and rank == 0:
        os.umask(0o077)
    if run == "forbidden" and rank == 1:
        os.seteuid(65534)


def be_rank(run: str, rank: int, port: int, folder: Path) -> str:
    """Return what a rank says in the end."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    torch.distributed.barrier()  # all are connected before one of them fails
    corpora = sorted(str(path.with_suffix("")) for path in folder.glob("*[0-9].idx"))
    corpora = corpora if run == "256 files" else corpora[:1]
    config = PackedDatasetConfig(
        random_seed=7,
        sequence_length=ROW,
        split="100,0,0",
        blend=(corpora, [1.0] * len(corpora)),
        path_to_cache="cache" if run == "apart" else str(folder / f"cache of {run}"),
        tokenizer=TOKENIZER,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    reads = rank != 2
    spoil(run, rank, folder)
    try:
        indexes.prepare_indexes(config, reads=reads)
    except InputError as error:
        return str(error)
    config.path_to_cache = None  # of Megatron's blends
    train, _, _ = PackedDatasetBuilder(PackedDataset, [40, 0, 0], lambda: reads, config).build()
    if train is None:
        return "opened nothing"
    parts = getattr(train, "datasets", [train])
    rows = [tuple(part[0]["tokens"].tolist()) for part in parts]
    files = Path("/proc/self/maps").read_text().count(str(folder))
    return f"{len(set(rows))} rows of {files} files"


def fork(run: str, rank: int, port: int, folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    said = folder / f"{run}.{rank}"
    with said.open("w") as file, said.with_name(f"{said.name}.log").open("w") as log:
        os.dup2(log.fileno(), 2)
        try:
            file.write(be_rank(run, rank, port, folder))
        except BaseException:
            traceback.print_exc(file=file)
        file.flush()
    os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1])
    started = time.monotonic()
    ranks = {}
    for run in RUNS:
        port = free_port()
        ranks |= {fork(run, rank, port, folder): (run, rank) for rank in range(RANKS)}
    ends: dict[str, dict[int, float]] = {run: {} for run in RUNS}
    while ranks and time.monotonic() - started < SECONDS:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid:
            run, rank = ranks.pop(pid)
            ends[run][rank] = time.monotonic() - started
        time.sleep(0.01)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    found = {
        run: [
            [(folder / f"{run}.{rank}").read_text(), ends[run].get(rank)] for rank in range(RANKS)
        ]
        for run in RUNS
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
