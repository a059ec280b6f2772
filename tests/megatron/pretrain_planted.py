# SPDX-License-Identifier: Apache-2.0
"""Trains as examples/pretrain_packed_gpt.py does, and plants bugs for the packing check to find.

PLANTED names bugs. The check runs once for each, with the bug in place, and what it says is printed
after "PLANTED name:". Then it runs without any, and training goes on. With ROUNDED linear layers
round to FP8, and the check is told so.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import pretrain_packed_gpt
import torch
from megatron.core import parallel_state

import megatron_packing.megatron.isolation as isolation
import megatron_packing.megatron.isolation_verdict as isolation_verdict
import megatron_packing.megatron.trainer as trainer
from megatron_packing.errors import InputError
from megatron_packing.megatron import batch as batches
from megatron_packing.megatron import multi_token
from megatron_packing.megatron.launch import run_training
from megatron_packing.megatron.layer_spec import ReferenceAttention
from tests.megatron import plain_mamba, rounded_linear

check = isolation.check_isolation
replaced = patch.object


def with_boundaries(batch, offsets, longest=None):
    """A batch whose layers are told other boundaries; longest None keeps the row's."""
    packed = batch.packed_seq_params
    longest = packed.max_seqlen_q if longest is None else longest
    told = replace(
        packed,
        cu_seqlens_q=offsets,
        cu_seqlens_kv=offsets,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
    return replace(batch, packed_seq_params=told)


def change_batches(change):
    """Change what ``get_batch`` gives where ``change(batch, vp_stage)`` gives another batch."""
    own = trainer.get_batch
    return replaced(
        trainer, "get_batch", lambda data, stage, **needs: change(own(data, stage, **needs), stage)
    )


def forget_in_the_middle(batch, stage):
    chunk = {"ignore_virtual": False, "vp_stage": stage}
    is_first = parallel_state.is_pipeline_first_stage(**chunk)
    is_end = is_first or parallel_state.is_pipeline_last_stage(**chunk)
    return batch if is_end else replace(batch, packed_seq_params=None)


def forget_seq_idx():
    return replaced(batches, "_with_segment_index", lambda _, batch: batch.packed_seq_params)


def carry_convolution():
    return replaced(plain_mamba.PlainMixer, "cuts_convolution", False)


def carry_state():
    return replaced(plain_mamba.PlainMixer, "cuts_state", False)


def continue_positions():
    def change(batch, _):
        if batch.position_ids is None:
            return batch
        return replace(batch, position_ids=torch.arange(batch.position_ids.numel()).view(1, -1))

    return change_batches(change)


def attend(sees_row):
    """Attention over the whole row wherever ``sees_row()``."""
    own = ReferenceAttention.attend

    def whole(self, query, key, value, packed):
        if sees_row():
            packed = replace(packed, cu_seqlens_q=packed.cu_seqlens_q[[0, -1]])
        return own(self, query, key, value, packed)

    return replaced(ReferenceAttention, "attend", whole)


def cut_contiguously(cu_seqlens, size, rank):
    return torch.arange(int(cu_seqlens[-1])).chunk(size)[rank]


def forget_boundaries(batch, _):
    ends = batch.packed_seq_params.cu_seqlens_q[[0, -1]]
    return with_boundaries(batch, ends, batch.row_positions + 1)


def shift(batch, _):
    offsets = batch.packed_seq_params.cu_seqlens_q.clone()
    offsets[1:2] += 1
    return with_boundaries(batch, offsets)


def shift_later(batch, _):
    offsets = batch.packed_seq_params.cu_seqlens_q.clone()
    offsets[3:4] += 1
    return with_boundaries(batch, offsets)


def lose_later(batch, _):
    offsets = batch.packed_seq_params.cu_seqlens_q.clone()
    offsets[2:3] = offsets[3:4]  # the second and the third document are one, and then none
    return with_boundaries(batch, offsets)


def count_padding():
    own = trainer.run_model
    return replaced(trainer, "run_model", lambda m, b: own(m, replace(b, padding_mask=None)))


def average_rows(right):
    def average(loss_mask, denominator, output, **options):
        loss, denominator, _ = right(loss_mask, denominator, output, **options)
        mean, one = loss / denominator.clamp(min=1), torch.ones_like(denominator)
        return mean, one, {"lm loss": torch.stack([mean.detach(), one.float()])}

    return average


def count_on_every_rank(batch, _):
    denominator = batch.denominator
    if denominator is not None:
        denominator = denominator.clone()
        group = parallel_state.get_context_parallel_group()
        torch.distributed.all_reduce(denominator, group=group)
    return replace(batch, denominator=denominator)


def return_means(right):
    def mean(loss_mask, denominator, output, **options):
        loss, _, report = right(loss_mask, denominator, output, **options)
        return loss / loss_mask.sum().clamp(min=1), report

    return mean


def merge_on_second_rank(batch, _):
    offsets = batch.packed_seq_params.cu_seqlens_q.clone()
    if parallel_state.get_tensor_model_parallel_rank() == 1:
        offsets[1] = offsets[2]  # the first two documents are one, and then none
    return with_boundaries(batch, offsets)


def cross_documents(change):
    """Change the tokens, targets and weights that multi-token prediction shifts."""
    own = multi_token.next_positions
    return replaced(multi_token, "next_positions", lambda *a, **k: change(*own(*a, **k)))


def wrap_around(source, exists):
    return source, torch.ones_like(
        exists
    )  # the last position of each document gets the row's first


BUGS = {
    "multi-token prediction crosses documents": lambda: cross_documents(wrap_around),
    "middle stages without cu_seqlens": lambda: change_batches(forget_in_the_middle),
    "no seq_idx": forget_seq_idx,
    "convolution across documents": carry_convolution,
    "recurrence across documents": carry_state,
    "positions do not restart": continue_positions,
    "mask lost when computed again": lambda: attend(torch.is_grad_enabled),
    "kernel ignores cu_seqlens": lambda: attend(lambda: True),
    "wrong order of chunks": lambda: replaced(batches, "partition_indices", cut_contiguously),
    "max_seqlen is the row": lambda: change_batches(
        lambda b, _: with_boundaries(b, b.packed_seq_params.cu_seqlens_q, b.row_positions)
    ),
    "a row is one document": lambda: change_batches(forget_boundaries),
    "boundary off by one": lambda: change_batches(shift),
    "later boundary off by one": lambda: change_batches(shift_later),
    "later boundary lost": lambda: change_batches(lose_later),
    "padding in a router": count_padding,
    "loss averaged by row": lambda: replaced(trainer, "loss_func", average_rows(trainer.loss_func)),
    "loss without a denominator": lambda: replaced(
        trainer, "loss_func", return_means(trainer.loss_func)
    ),
    "denominator on every rank": lambda: change_batches(count_on_every_rank),
    "two documents are one on a tensor-parallel rank": lambda: change_batches(merge_on_second_rank),
}


def check_each(*args):
    for name in filter(None, os.environ["PLANTED"].split(",")):
        found = "nothing"
        with BUGS[name]():
            try:
                check(*args)
            except InputError as error:
                found = str(error)
        sys.stdout.write(f"PLANTED {name}: {found}\n")
    check(*args)


def fail_to_read(*_):
    if torch.distributed.get_rank() == 0:
        raise InputError("the row cannot be read")
    return find_row(*_)


find_row = isolation.find_row
isolation.check_isolation = check_each
if "BROKEN" in os.environ:
    isolation.find_row = fail_to_read
if "ROUNDED" in os.environ:
    rounded_linear.install(vocabulary=256)
    flag_value = isolation_verdict.flag_value
    isolation_verdict.flag_value = lambda args, name: name == "fp8" or flag_value(args, name)
plain_mamba.install()

if __name__ == "__main__":
    run_training(pretrain_packed_gpt.main)
    sys.stdout.write(f"ROUNDED {len(rounded_linear.rounded_weights)} weights\n")
