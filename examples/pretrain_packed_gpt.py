"""Trains a GPT on packed conversations with Megatron's own pretrain().

What is Megatron's is as in its pretrain_gpt.py; what packing adds comes from megatron_packing.
Run it under torchrun with Megatron's flags and those of --help's group "packing".
"""

import sys

from megatron.core.enums import ModelType
from megatron.training import pretrain
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import add_packing_arguments, check_packing_arguments
from megatron_packing.megatron.trainer import datasets_provider, forward_step, use_packed_layers


def main():
    """Train."""
    args = parse_and_validate_args(extra_args_provider=add_packing_arguments)
    check_packing_arguments(args)  # refuses what would train wrongly
    model_config = gpt_config_from_args(args)
    use_packed_layers(model_config, args)  # for --transformer-impl local
    pretrain(
        pretrain_cfg_container_from_args(args, model_config),
        datasets_provider,  # packed rows
        ModelType.encoder_or_decoder,
        forward_step,  # hands cu_seqlens to every layer of every pipeline stage
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
