# SPDX-License-Identifier: Apache-2.0
"""pretrain_padded_gpt.py with losses of multi-token prediction that are written out.

Megatron's own layers of multi-token prediction run on padded rows, which it shifts by one position.
With --hybrid-layer-pattern they are those of HybridModel, with Megatron's own local attention.
The losses and their sum share nothing with megatron_packing: of each depth, the losses of the
tokens so many positions further, by the weights of these, as a part of the step's loss.
"""

from functools import partial
from types import SimpleNamespace

import torch
from megatron.core.enums import ModelType
from megatron.core.models.gpt import gpt_model
from megatron.core.models.hybrid import hybrid_model
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.training import get_args, pretrain
from megatron.training.argument_utils import (
    gpt_config_from_args,
    hybrid_config_from_args,
    pretrain_cfg_container_from_args,
)
from megatron.training.arguments import parse_and_validate_args

from megatron_packing.megatron.arguments import add_packing_arguments
from megatron_packing.megatron.hybrid_layer_spec import packed_hybrid_spec
from tests.megatron import pretrain_padded_gpt as padded

of_depths = []


def keep_losses(hidden_states, labels, output_layer, compute_language_model_loss, config, **given):
    main, *depths = torch.chunk(hidden_states, 1 + config.mtp_num_layers)
    of_depths.clear()
    weight = given["output_weight"]
    if config.mtp_detach_heads:
        weight = output_layer.weight.detach()
    for depth, hidden in enumerate(depths, 1):
        further = torch.zeros_like(labels)
        further[:, :-depth] = labels[:, depth:]
        logits, _ = output_layer(hidden, weight=weight)
        of_depths.append(compute_language_model_loss(further, logits)[:, :-depth])
    return main


def forward_step(data_iterator, model):
    args = get_args()
    batch = SimpleNamespace(**next(data_iterator))
    positions = torch.arange(args.seq_length).expand_as(batch.tokens)
    output = model(batch.tokens, positions, None, labels=batch.labels)
    weights, count = padded.weigh_rows(batch.loss_mask, args.packing_normaliser)
    sums = [(losses * weights[:, depth:]).sum() for depth, losses in enumerate(of_depths.copy(), 1)]
    return output, partial(loss_func, weights, count, sums)


def loss_func(weights, count, sums, output):
    main, count, report = padded.loss_func(weights, count, output)
    for depth, one in enumerate(sums, 1):
        report[f"mtp_{depth} loss"] = torch.stack([one.detach(), count.float()])
    factor = get_args().mtp_loss_scaling_factor / len(sums)
    return main + factor * sum(sums), count, report


def model_config(args):
    if args.hybrid_layer_pattern is None:
        return gpt_config_from_args(args)
    config = hybrid_config_from_args(args)
    stack = packed_hybrid_spec(config.transformer)
    attention = stack.submodules.attention_layer.submodules.self_attention
    attention.submodules.core_attention = DotProductAttention
    config.hybrid_stack_spec = stack
    return config


if __name__ == "__main__":
    gpt_model.process_mtp_loss = hybrid_model.process_mtp_loss = keep_losses
    args = parse_and_validate_args(extra_args_provider=add_packing_arguments)
    pretrain(
        pretrain_cfg_container_from_args(args, model_config(args)),
        padded.datasets_provider,
        ModelType.encoder_or_decoder,
        forward_step,
    )
