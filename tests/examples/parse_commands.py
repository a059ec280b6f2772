# SPDX-License-Identifier: Apache-2.0
"""Gives command lines to Megatron's own parser and checks, with faked numbers of ranks.

    parse_commands.py COMMANDS.json

A command is {"words": [...], "world_size": N}. Prints a JSON list of what became of each.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from cpu_trainer import run_cuda_code_on_cpu

run_cuda_code_on_cpu()

from megatron.training.argument_utils import gpt_config_from_args
from megatron.training.arguments import parse_args, validate_args

from megatron_packing.megatron.arguments import add_packing_arguments, check_packing_arguments


def parse(words: list[str], world_size: int) -> dict:
    """As pretrain_packed_gpt.py does before it trains."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0"}
    sys.argv = ["pretrain_packed_gpt.py", *words]
    args = parse_args(add_packing_arguments)
    validate_args(args)
    check_packing_arguments(args)
    args.padded_vocab_size = 128256
    args.apply_rope_fusion = False  # Transformer Engine's, without which its flag is refused here
    transformer = gpt_config_from_args(args).transformer
    return {
        "data_parallel_size": args.data_parallel_size,
        "micro_batches": args.global_batch_size // args.data_parallel_size,
        "layers_of_stage": (
            transformer.num_layers
            + transformer.account_for_embedding_in_pipeline_split
            + transformer.account_for_loss_in_pipeline_split
        )
        / transformer.pipeline_model_parallel_size,
        "tensor": transformer.tensor_model_parallel_size,
        "pipeline": transformer.pipeline_model_parallel_size,
        "context": transformer.context_parallel_size,
        "sequence_parallel": transformer.sequence_parallel,
        "per_token_loss": transformer.calculate_per_token_loss,
        "implementation": transformer.transformer_impl,
        "row": args.seq_length,
        "steps": args.train_iters,
        "eval_iters": args.eval_iters,
    }


def main() -> None:
    standard_output, sys.stdout = sys.stdout, sys.stderr  # Megatron prints its arguments
    commands = json.loads(Path(sys.argv[1]).read_text())
    found = [parse(command["words"], command["world_size"]) for command in commands]
    standard_output.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
