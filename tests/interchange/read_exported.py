# SPDX-License-Identifier: Apache-2.0
"""Reads exported packs with the classes of Megatron-Bridge or NeMo, in a process of its own.

    read_exported.py bridge|nemo END_TOKEN ROW FILE:MULTIPLE...

FILE.npz gets, of every pack, what the class's own collate_fn makes of it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bridge import source  # noqa: F401  # isort: skip  # before Megatron

import megatron.core.packed_seq_params  # noqa: F401  # before stand-ins are there
import numpy as np
import torch
from megatron.core.models.gpt import GPTModel  # noqa: F401

from megatron_packing.interchange.export import METADATA
from tests.bridge.absent import prepare_bridge, prepare_nemo


def reader_of(package: str, file: str):
    """The class that reads such a file."""
    if package == "nemo":
        from nemo.collections.llm.gpt.data.core import GPTSFTPackedDataset

        return GPTSFTPackedDataset
    if file.endswith(".parquet"):
        from megatron.bridge.data.packing.parquet import GPTSFTPackedParquetDataset

        return GPTSFTPackedParquetDataset
    try:
        from megatron.bridge.data.packing.gpt_sft import GPTSFTPackedDataset
    except ModuleNotFoundError:
        from megatron.bridge.data.datasets.sft import GPTSFTPackedDataset
    return GPTSFTPackedDataset


def main() -> None:
    package, end_token, row, *files = sys.argv[1:]
    {"bridge": prepare_bridge, "nemo": prepare_nemo}[package]()
    for argument in files:
        file, _, multiple = argument.rpartition(":")
        settings = {} if package == "nemo" else {"pad_seq_to_mult": int(multiple)}
        dataset = reader_of(package, file)(
            file_path=file,
            tokenizer=SimpleNamespace(
                eos_id=int(end_token), eod=int(end_token), space_sensitive=False
            ),
            pack_metadata_file_path=Path(file).with_name(METADATA),
            pad_cu_seqlens=True,
            max_seq_length=int(row),
            pad_to_max_length=True,
            prompt_template="{text} {answer}",  # asked for, and not used for packed files
            **settings,
        )
        found = {
            f"{pack} {name}": value.numpy().reshape(-1)
            for pack in range(len(dataset))
            for name, value in dataset.collate_fn([dataset[pack]]).items()
            if torch.is_tensor(value)
        }
        np.savez(f"{file}.npz", **found)


if __name__ == "__main__":
    main()
