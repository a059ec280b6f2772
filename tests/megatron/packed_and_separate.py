"""Compares a packed row with its documents one at a time, in megatron-core's GPTModel.

Run by test_packed_equals_separate.py in a process of its own, since it puts CUDA's stand-ins in
place. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import torch
from cpu_trainer import run_cuda_code_on_cpu

run_cuda_code_on_cpu()

from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig

from megatron_packing.megatron.batch import get_batch
from megatron_packing.megatron.layer_spec import local_layer_spec
from megatron_packing.megatron.loss import loss_func
from tests.conftest import write_corpus
from tests.megatron.test_dataset import ROW, build


def make_model(position_embedding: str) -> GPTModel:
    config = TransformerConfig(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=128,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        apply_rope_fusion=False,
    )
    torch.default_generator.manual_seed(0)
    return GPTModel(
        config,
        local_layer_spec(config),
        vocab_size=256,
        max_sequence_length=ROW,
        position_embedding_type=position_embedding,
        share_embeddings_and_output_weights=False,
    )


def gradients(model: GPTModel) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def packed(model: GPTModel, train) -> tuple[float, int, dict[str, torch.Tensor]]:
    """Sum of losses, trained tokens and gradients over all rows."""
    total, count = 0.0, 0
    loader = iter(torch.utils.data.DataLoader(train, batch_size=1))
    for _ in range(len(train)):
        batch = get_batch(loader)
        output = model(
            batch.tokens,
            batch.position_ids,
            None,
            labels=batch.labels,
            packed_seq_params=batch.packed_seq_params,
        )
        loss, num_tokens, _ = loss_func(batch.loss_mask, output)
        loss.backward()
        total += loss.item()
        count += int(num_tokens)
    return total, count, gradients(model)


def separate(model: GPTModel, corpus) -> tuple[float, int, dict[str, torch.Tensor]]:
    """The same over documents alone, as unpacked (sbhd) batches of one."""
    total, count = 0.0, 0
    for document in range(len(corpus)):
        tokens = torch.from_numpy(corpus.tokens(document).astype("int64"))[None]
        mask = torch.from_numpy(corpus.loss_mask(document).astype("float32"))[None, 1:]
        positions = torch.arange(tokens.shape[1] - 1)[None]
        losses = model(tokens[:, :-1], positions, None, labels=tokens[:, 1:])
        loss = (losses * mask).sum()
        loss.backward()
        total += loss.item()
        count += int(mask.sum())
    return total, count, gradients(model)


def main() -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK="0", WORLD_SIZE="1")
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(f"{folder}/store", 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        parallel_state.initialize_model_parallel()
        model_parallel_cuda_manual_seed(1)
        lengths = [38, 6, 65, 2, 23, 40, 25, 64, 10, 12, 3]
        corpus = write_corpus(Path(folder) / "corpus", lengths)
        (train, _, _) = build([corpus.prefix], Path(folder))
        results = {}
        for position_embedding in ("rope", "learned_absolute"):
            model = make_model(position_embedding)
            loss, count, grads = packed(model, train)
            alone, alone_count, alone_grads = separate(model, corpus)
            results[position_embedding] = {
                "rows": len(train),
                "tokens": [count, alone_count],
                "mean losses": [loss / count, alone / alone_count],
                "gradient difference": max(
                    ((grads[name] - grad).abs().max() / grad.abs().max()).item()
                    for name, grad in alone_grads.items()
                ),
            }
        sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
