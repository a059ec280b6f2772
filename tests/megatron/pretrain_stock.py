# SPDX-License-Identifier: Apache-2.0
"""What Megatron's pretrain_gpt.py has where a packed script has the packing's."""

from functools import partial

import torch
from megatron.core import parallel_state
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.utils import get_batch_on_this_tp_rank
from megatron.training import get_args
from megatron.training.argument_utils import gpt_config_from_args as hybrid_config_from_args
from megatron.training.utils import get_blend_and_blend_per_split

from megatron_packing.megatron.layer_spec import attention_of, local_layer_spec

__all__ = ["hybrid_config_from_args"]  # pretrain_gpt.py builds a GPTModel in any case

KEYS = ("tokens", "labels", "loss_mask", "position_ids", "attention_mask", "cu_seqlens")


def add_packing_arguments(parser):
    return parser


def check_packing_arguments(args):
    """There is none."""


def use_packed_layers(model_config, args):
    """There is none."""


def unchecked_layers(model_config, args):  # noqa: ARG001
    """Give layers that support packed rows, without looking at flags and model."""

    def layer_spec(model_config, vp_stage=None):
        return local_layer_spec(model_config.transformer, vp_stage, attention_of("reference"))

    model_config.transformer_layer_spec = layer_spec


def datasets_provider(num_samples, vp_stage=None):  # noqa: ARG001
    args = get_args()
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=blend_per_split,
        split=args.split,
        path_to_cache=args.data_cache_path,
        tokenizer=build_tokenizer(args),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    builder = BlendedMegatronDatasetBuilder(
        GPTDataset,
        num_samples,
        lambda: parallel_state.get_tensor_model_parallel_rank() == 0,
        config,
    )
    return builder.build()


datasets_provider.is_distributed = True


def forward_step(data_iterator, model):
    args = get_args()
    rank = parallel_state.get_tensor_model_parallel_rank()
    batch = {}
    if rank == 0:
        batch = next(data_iterator)
        for key in KEYS:
            batch[key] = batch[key].cuda(non_blocking=True) if key in batch else None
    batch = get_batch_on_this_tp_rank(
        batch,
        has_cu_seqlens=False,
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=False,
        broadcast_src_rank=parallel_state.get_tensor_model_parallel_src_rank(),
        broadcast_group=parallel_state.get_tensor_model_parallel_group(),
        cp_size=1,
        tp_rank=rank,
        micro_batch_size=1,
        seq_length=args.seq_length,
        mtp_on_this_rank=False,
        is_pipeline_first_stage=True,
        is_pipeline_last_stage=True,
    )
    output = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
    return output, partial(loss_func, batch["loss_mask"])


def loss_func(mask, output):
    loss, count = (output.view(-1) * mask.view(-1)).sum(), mask.sum().int()
    return loss, count, {"lm loss": torch.stack([loss.detach(), count.float()])}
