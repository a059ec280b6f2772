# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import torch

from megatron_packing.megatron.row_message import RowParts, RowSizes
from tests.ranks import run_ranks

SCRIPT = Path(__file__).with_name("packed_and_separate.py")


@pytest.mark.parametrize("names", [(), ("tokens", "position_ids"), ("labels", "loss_mask")])
@pytest.mark.parametrize("has_mask", [False, True])
def test_a_row_is_what_was_sent_to_the_bit(names, has_mask):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randint(0, 2**31 - 1, (6,), generator=generator) for name in names}
    if "loss_mask" in tensors:
        tensors["loss_mask"] = torch.tensor([0.0, 1.0, 1 / 3, 1e-40, 3e38, 0.1])
    mask = torch.tensor([False, True] * 3) if has_mask else None
    parts = RowParts(
        cu_seqlens=torch.tensor([0, 4, 6], dtype=torch.int32),
        row_denominator=torch.tensor([2**31 - 1]),
        real_lengths=torch.tensor([3, 0], dtype=torch.int32),
        tensors=tensors,
        padding_mask=mask,
    )
    sizes = RowSizes(positions=6, width=3, max_seqlen=4, has_padding_mask=has_mask)
    message = parts.encode(pinned=False)
    assert message.dtype == torch.int32
    assert len(message) == sizes.message_length(len(names))
    found = RowParts.decode(message, sizes, names)
    assert found.cu_seqlens.tolist() == [0, 4, 6]
    assert found.cu_seqlens.dtype == found.real_lengths.dtype == torch.int32
    assert found.row_denominator.shape == ()
    assert found.row_denominator == 2**31 - 1
    assert found.real_lengths.tolist() == [3, 0]
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, tensors[name][None]), name
    assert (found.padding_mask is None) is not has_mask
    assert not has_mask or torch.equal(found.padding_mask, mask[None])


@pytest.mark.slow
def test_a_row_of_other_sizes_than_the_first_is_refused_where_it_is_read(tmp_path):
    output = run_ranks(SCRIPT, "sizes", tmp_path, ranks=2)[0]
    error = json.loads(output.splitlines()[-1])["error"]
    assert error.startswith("InputError: a row has other sizes (RowSizes(positions=64, width=")
    assert error.endswith("give all datasets of a run the same PackedDatasetConfig.packing_shape")
