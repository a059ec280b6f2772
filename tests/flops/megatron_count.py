# SPDX-License-Identifier: Apache-2.0
"""Prints what Megatron counts as a global batch's floating-point operations, as JSON.

    megatron_count.py TOKENS SQUARES FLAGS [FLAGS ...]

FLAGS is a model on Megatron's command line. Megatron's own parser and checks make its arguments.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from cpu_trainer import run_cuda_code_on_cpu

run_cuda_code_on_cpu()

from megatron.training.arguments import parse_args, validate_args
from megatron.training.training import num_floating_point_operations

COMMON = """
    --micro-batch-size 1 --global-batch-size 1 --lr 1e-3 --train-iters 1 --transformer-impl local
    --max-position-embeddings 4096 --seq-length 4096 --untie-embeddings-and-output-weights
    --tokenizer-type NullTokenizer
"""


def count(flags: str, tokens: int, squares: int) -> float:
    """Count a batch of one row."""
    sys.argv[1:] = (COMMON + flags).split()
    args = parse_args()
    validate_args(args)
    args.padded_vocab_size = args.vocab_size
    return float(num_floating_point_operations(args, 1, squares, tokens))


def main() -> None:
    tokens, squares, *models = sys.argv[1:]
    output, sys.stdout = sys.stdout, sys.stderr  # Megatron prints
    found = [count(flags, int(tokens), int(squares)) for flags in models]
    output.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
