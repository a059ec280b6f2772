# SPDX-License-Identifier: Apache-2.0
"""Trains a GPT on packed conversations with Megatron's own pretrain().

It builds Megatron's GPTModel, or its HybridModel with --hybrid-layer-pattern. What is Megatron's is
as in its pretrain_gpt.py; what packing adds comes from megatron_packing and is marked with numbers.
Run it under torchrun with Megatron's flags and those of --help's last group, "packing".
"""

from megatron_packing.needs.installed import end_script_without

end_script_without("torch", "megatron_core")  # 0: one sentence where Megatron is missing ...

from megatron_packing.megatron.versions import require_trainer

require_trainer()  # ... or older than this script

from megatron.core.enums import ModelType
from megatron.training import pretrain
from megatron.training.argument_utils import (
    gpt_config_from_args,
    hybrid_config_from_args,
    pretrain_cfg_container_from_args,
)
from megatron.training.arguments import parse_and_validate_args

from megatron_packing.megatron.arguments import add_packing_arguments, check_packing_arguments
from megatron_packing.megatron.launch import run_training
from megatron_packing.megatron.trainer import datasets_provider, forward_step, use_packed_layers


def main():
    """Train."""
    args = parse_and_validate_args(extra_args_provider=add_packing_arguments)  # 1: the flags
    check_packing_arguments(args)  # 2: refuses what would train wrongly
    is_hybrid = args.hybrid_layer_pattern is not None
    model_config = hybrid_config_from_args(args) if is_hybrid else gpt_config_from_args(args)
    use_packed_layers(model_config, args)  # 3: for --transformer-impl local
    pretrain(
        pretrain_cfg_container_from_args(args, model_config),
        datasets_provider,  # 4: packed rows
        ModelType.encoder_or_decoder,
        forward_step,  # 5: hands cu_seqlens to every layer of every pipeline stage
    )


if __name__ == "__main__":
    run_training(main)  # 6: wrong input ends in one sentence
