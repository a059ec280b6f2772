# SPDX-License-Identifier: Apache-2.0
"""Trains on one padded row a document, by Megatron's own unpacked batches, layers and attention.

What packed runs are compared with. Nothing of the packed batch path, attention or loss is used, but
the order of the documents: step s trains on those that step s of the packed run holds. Flags are
those of examples/pretrain_packed_gpt.py, with --global-batch-size for the padded run and, in the
environment, PACKED_GLOBAL_BATCH_SIZE. Rows that are left over in a batch train nothing.
"""

import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.enums import ModelType
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.training import get_args, pretrain
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args
from megatron.training.utils import get_blend_and_blend_per_split

from megatron_packing.megatron.arguments import add_packing_arguments, dataset_config_from_args
from megatron_packing.megatron.dataset import PackedDataset


class PaddedDocuments(torch.utils.data.Dataset):
    """The documents of a packed dataset, in batches of rows for each of its global batches."""

    def __init__(self, packed, packs_in_batch, rows_in_batch, num_samples):
        self.corpus, self.length = packed.corpus, packed.config.sequence_length
        self.rows, self.num_samples = rows_in_batch, num_samples
        self.segments = []
        for batch in range(-(-num_samples // rows_in_batch)):
            packs = range(batch * packs_in_batch, (batch + 1) * packs_in_batch)
            found = [segment for pack in packs for segment in packed.rows.segments(pack)]
            assert len(found) <= rows_in_batch, f"{len(found)} documents in {rows_in_batch} rows"
            self.segments += found + [None] * (rows_in_batch - len(found))

    def __len__(self):
        return self.num_samples

    def __getitem__(self, i):
        tokens = torch.zeros(self.length + 1, dtype=torch.int64)
        mask = torch.zeros(self.length, dtype=torch.float32)
        if self.segments[i] is not None:
            document, start, length = self.segments[i]
            ids = self.corpus.tokens(document, start, start + length + 1)
            tokens[: length + 1] = torch.from_numpy(ids.astype(np.int64))
            trained = self.corpus.loss_mask(document, start + 1, start + length + 1)
            mask[:length] = torch.from_numpy(trained.astype(np.float32))
        return {"tokens": tokens[:-1], "labels": tokens[1:], "loss_mask": mask}


def weigh(mask, normaliser):
    """Weights and count of one row, written out."""
    trained = mask.tolist()
    weights, count, i = [0.0] * len(trained), 0, 0
    if normaliser == "token":
        return mask, int(sum(trained))
    if normaliser == "sequence":
        return mask / max(1, mask.sum()), int(any(trained))
    while i < len(trained):
        stop = i
        while stop < len(trained) and trained[stop]:
            stop += 1
        for j in range(i, stop):
            weights[j] = 1 / (stop - i)
        count += stop > i
        i = stop + 1
    return torch.tensor(weights), count


def weigh_rows(masks, normaliser):
    weights, counts = zip(*(weigh(mask, normaliser) for mask in masks), strict=True)
    return torch.stack(weights), sum(counts)


def datasets_provider(num_samples, vp_stage=None):  # noqa: ARG001
    args = get_args()
    config = dataset_config_from_args(args, build_tokenizer(args), get_blend_and_blend_per_split)
    packs = config.packing_eval_packs_multiple_of = int(os.environ["PACKED_GLOBAL_BATCH_SIZE"])
    builder = BlendedMegatronDatasetBuilder(PackedDataset, [None] * 3, lambda: True, config)
    return [
        dataset and PaddedDocuments(dataset, packs, args.global_batch_size, samples)
        for dataset, samples in zip(builder.build(), num_samples, strict=True)
    ]


datasets_provider.is_distributed = True


def forward_step(data_iterator, model):
    args = get_args()
    batch = SimpleNamespace(**next(data_iterator))
    positions = torch.arange(args.seq_length).expand_as(batch.tokens)
    output = model(batch.tokens, positions, None, labels=batch.labels)
    weights, count = weigh_rows(batch.loss_mask, args.packing_normaliser)
    return output, partial(loss_func, weights, count)


def loss_func(weights, count, output):
    loss = (output * weights).sum()
    count = torch.tensor(count, dtype=torch.int)
    return loss, count, {"lm loss": torch.stack([loss.detach(), count.float()])}


if __name__ == "__main__":
    args = parse_and_validate_args(extra_args_provider=add_packing_arguments)
    pretrain(
        pretrain_cfg_container_from_args(args, gpt_config_from_args(args)),
        datasets_provider,
        ModelType.encoder_or_decoder,
        forward_step,
    )
