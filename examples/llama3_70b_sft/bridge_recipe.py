# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes Llama 3.1 70B on packs by Megatron-Bridge's own recipe.

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29500 \
      examples/llama3_70b_sft/bridge_recipe.py --train data/train_packs_8192 \
      --validation data/valid_packs_8192 --pretrained-checkpoint CHECKPOINT --save FOLDER

The recipe stays as it is but for what use_packed_data changes, and prints.
"""

import argparse
import sys

from megatron_packing.needs.installed import end_script_without

end_script_without("torch", "megatron_core", "megatron_bridge")

from megatron.bridge.recipes.llama import llama31_70b_sft_config
from megatron.bridge.training.finetune import finetune
from megatron.bridge.training.gpt_step import forward_step

from megatron_packing.bridge.recipe import use_packed_data
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex


def main():
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", required=True, help="the pack index of training documents")
    parser.add_argument("--validation", help="the one of validation documents")
    parser.add_argument("--pretrained-checkpoint", required=True)
    parser.add_argument("--save", required=True, help="where checkpoints go, and come from")
    parser.add_argument("--context-parallel-size", type=int, default=1)
    parser.add_argument("--global-batch-size", type=int, help="rows; by default as train.sh does")
    parser.add_argument("--epochs", type=float, default=2.0)
    args = parser.parse_args()

    packs = len(PackIndex.open(args.train))
    row = PackIndex.open(args.train).plan.sequence_length
    batch = args.global_batch_size or max(8, 524288 // row)
    steps = round(args.epochs * packs / batch)
    if steps < 1:
        raise InputError(f"--epochs {args.epochs:g} of {packs} rows are no step of {batch}")
    cfg = llama31_70b_sft_config()
    cfg.model.context_parallel_size = args.context_parallel_size
    cfg.model.sequence_parallel = True
    cfg.ddp.use_distributed_optimizer = cfg.optimizer.use_distributed_optimizer = True
    if row > 8192:  # activations are the larger part
        cfg.model.recompute_granularity = "full"
        cfg.model.recompute_method = "uniform"
        cfg.model.recompute_num_layers = 1
    cfg.checkpoint.pretrained_checkpoint = args.pretrained_checkpoint
    cfg.checkpoint.save = cfg.checkpoint.load = args.save
    cfg.train.global_batch_size = batch
    cfg.train.train_iters = steps
    cfg.scheduler.lr_warmup_iters = min(cfg.scheduler.lr_warmup_iters, steps // 10)
    if args.validation:  # each document once, where prepare.sh packed whole batches of them
        evaluation = getattr(cfg, "validation", cfg.train)
        evaluation.eval_iters = max(1, len(PackIndex.open(args.validation)) // batch)
    use_packed_data(cfg, train=args.train, validation=args.validation, keep="rows")  # last
    finetune(cfg, forward_step)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
