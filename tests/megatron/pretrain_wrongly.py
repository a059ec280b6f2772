# SPDX-License-Identifier: Apache-2.0
"""Trains on packed rows as examples/pretrain_packed_gpt.py does, with one mistake put in.

WRONG names it: "averaged" divides the loss of each row by its own trained tokens and takes the mean
of the rows, "multi-token" and "balancing" leave losses of multi-token prediction and balancing
losses of experts to Megatron, and "middle" leaves cu_seqlens out on pipeline stages between the
first and the last, which then take the row for one document.
"""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import pretrain_packed_gpt
import torch
from megatron.core import parallel_state

import megatron_packing.megatron.batch as batches
import megatron_packing.megatron.trainer as trainer

WRONG = os.environ["WRONG"]


def average_rows(loss_mask, denominator, output, **options):
    loss, denominator, _ = right_loss(loss_mask, denominator, output, **options)
    mean, one = loss / denominator, torch.ones_like(denominator)
    return mean, one, {"lm loss": torch.stack([mean.detach(), one.float()])}


def forget_boundaries(data_iterator, vp_stage, **needs):
    batch = right_batch(data_iterator, vp_stage, **needs)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    if 0 < stage < parallel_state.get_pipeline_model_parallel_world_size() - 1:
        row = batch.packed_seq_params.cu_seqlens_q[[0, -1]]
        length = int(row[-1])
        batch = replace(
            batch,
            packed_seq_params=replace(
                batch.packed_seq_params,
                cu_seqlens_q=row,
                cu_seqlens_kv=row,
                max_seqlen_q=length,
                max_seqlen_kv=length,
            ),
        )
    return batch


right_loss, right_batch = trainer.loss_func, trainer.get_batch
if WRONG == "averaged":
    trainer.loss_func = average_rows
elif WRONG == "middle":
    trainer.get_batch = forget_boundaries
elif WRONG == "multi-token":
    batches.multi_token_row = lambda *_: contextlib.nullcontext()
elif WRONG == "balancing":
    batches.count_whole_rows = batches.weigh_balancing_losses = lambda *_: None
elif WRONG:
    sys.exit(f"error: WRONG is {WRONG!r}")

if __name__ == "__main__":
    pretrain_packed_gpt.main()
