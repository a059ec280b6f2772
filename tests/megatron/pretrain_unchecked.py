# SPDX-License-Identifier: Apache-2.0
"""Trains as examples/pretrain_packed_gpt.py does, without its check of Megatron's flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import pretrain_packed_gpt

import megatron_packing.megatron.trainer as trainer

pretrain_packed_gpt.check_packing_arguments = trainer.check_packing_arguments = lambda _: None

if __name__ == "__main__":
    pretrain_packed_gpt.main()
