"""Trains a GPT on packed conversations with Megatron's own pretrain().

What is Megatron's is as in its pretrain_gpt.py; what packing adds comes from megatron_packing.
Run it under torchrun with Megatron's flags and those of --help's group "packing".
"""

import sys
from functools import partial

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.enums import ModelType
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.training import get_args, get_timers, pretrain, print_rank_0
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args
from megatron.training.utils import get_blend_and_blend_per_split

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import (
    add_packing_arguments,
    check_packing_arguments,
    dataset_config_from_args,
)
from megatron_packing.megatron.balance import balance_steps
from megatron_packing.megatron.batch import get_batch, is_dataset_built_on_rank
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.layer_spec import local_layer_spec
from megatron_packing.megatron.loss import loss_func


def datasets_provider(num_samples, vp_stage=None):
    """Build the training, validation and test datasets."""
    args = get_args()
    config = dataset_config_from_args(args, build_tokenizer(args), get_blend_and_blend_per_split)
    print_rank_0("> packing the training, validation and test documents ...")
    is_built = partial(is_dataset_built_on_rank, vp_stage=vp_stage)
    builder = BlendedMegatronDatasetBuilder(PackedDataset, num_samples, is_built, config)
    train, valid, test = builder.build()
    return balance_steps(train, args), valid, test


def forward_step(data_iterator, model):
    """Run the model on one packed row."""
    args = get_args()
    timers = get_timers()
    timers("batch-generator", log_level=2).start()
    batch = get_batch(data_iterator)
    timers("batch-generator").stop()
    output = model(
        batch.tokens,
        batch.position_ids,
        None,
        labels=batch.labels,
        packed_seq_params=batch.packed_seq_params,
    )
    return output, partial(
        loss_func, batch.loss_mask, check_for_nan=args.check_for_nan_in_loss_and_grad
    )


def main():
    """Train."""
    datasets_provider.is_distributed = True  # every rank builds, or learns that it has none
    args = parse_and_validate_args(extra_args_provider=add_packing_arguments)
    check_packing_arguments(args)
    model_config = gpt_config_from_args(args)
    if args.transformer_impl == "local":

        def layer_spec(model_config, vp_stage=None):
            return local_layer_spec(model_config.transformer, vp_stage)

        model_config.transformer_layer_spec = layer_spec
    pretrain(
        pretrain_cfg_container_from_args(args, model_config),
        datasets_provider,
        ModelType.encoder_or_decoder,
        forward_step,
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
