"""Fine-tunes Llama 3.1 70B on packs by Megatron-Bridge's own recipe.

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29500 \
      examples/llama3_70b_sft/bridge_recipe.py --train data/train_packs_8192 \
      --validation data/valid_packs_8192 --pretrained-checkpoint CHECKPOINT --save FOLDER

The recipe stays as it is but for what use_packed_data changes, and prints.
"""

import argparse
import sys

from megatron.bridge.recipes.llama import llama31_70b_sft_config
from megatron.bridge.training.finetune import finetune
from megatron.bridge.training.gpt_step import forward_step

from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.nemo.recipe import use_packed_data


def main():
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", required=True, help="the pack index of training documents")
    parser.add_argument("--validation", help="the one of validation documents")
    parser.add_argument("--pretrained-checkpoint", required=True)
    parser.add_argument("--save", required=True, help="where checkpoints go, and come from")
    parser.add_argument("--context-parallel-size", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=2.0)
    args = parser.parse_args()

    cfg = llama31_70b_sft_config()
    cfg.model.context_parallel_size = args.context_parallel_size
    cfg.model.sequence_parallel = True
    cfg.checkpoint.pretrained_checkpoint = args.pretrained_checkpoint
    cfg.checkpoint.save = cfg.checkpoint.load = args.save
    use_packed_data(cfg, train=args.train, validation=args.validation)  # after all else
    packs = len(PackIndex.open(args.train))
    steps = max(1, round(args.epochs * packs / cfg.train.global_batch_size))
    cfg.train.train_iters = steps
    cfg.scheduler.lr_warmup_iters = min(cfg.scheduler.lr_warmup_iters, steps // 10)
    finetune(cfg, forward_step)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
