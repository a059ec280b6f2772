# SPDX-License-Identifier: Apache-2.0
"""Builds datasets on two ranks whose process group gives up sooner than rank 0 has packed.

    build_slowly.py FOLDER SECONDS BUILD_MINUTES shared|failing

FOLDER holds the corpus. Rank 0 takes SECONDS to pack; collective operations are given up after 3.
Rank 0 may fail.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder

from megatron_packing.errors import InputError
from megatron_packing.megatron import cached_indexes, indexes
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.dataset import PackedDataset
from tests.megatron.test_dataset import ROW, null_tokenizer


def main() -> None:
    folder, seconds, minutes, where = Path(sys.argv[1]), *map(float, sys.argv[2:4]), sys.argv[4]
    rank = int(os.environ["RANK"])
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    # Ranks find each other, and come here at the same time, however slow the machine is.
    torch.distributed.barrier()
    limit = datetime.timedelta(seconds=3)
    group = torch.distributed.distributed_c10d._get_default_group()
    torch.distributed.distributed_c10d._set_pg_timeout(limit, group)
    assert group._get_backend(torch.device("cpu")).options._timeout == limit
    built = []
    build = cached_indexes.build_pack_index

    def build_slowly(*arguments, **options):
        time.sleep(seconds)
        built.append(build(*arguments, **options))
        return built[-1]

    cached_indexes.build_pack_index = build_slowly
    cache = folder / "cache"
    config = PackedDatasetConfig(
        random_seed=7,
        sequence_length=ROW if where != "failing" else 8,
        split="90,10,0",
        blend=([str(folder / "corpus")], None),
        path_to_cache=str(cache),
        tokenizer=null_tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        packing_build_minutes=minutes,
    )
    try:
        indexes.prepare_indexes(config)
    except InputError as error:
        sys.stdout.write(f"{error}\n")
        return
    count = len(built)
    train, valid, _ = BlendedMegatronDatasetBuilder(
        PackedDataset, [None, None, None], lambda: True, config
    ).build()
    assert len(built) == count == (2 if rank == 0 else 0)  # the builder found all
    assert train.index.path.parent == valid.index.path.parent == cache / "pack_indexes"
    sys.stdout.write(f"rank {rank}: {len(train)} rows\n")


if __name__ == "__main__":
    main()
