# SPDX-License-Identifier: Apache-2.0
"""What the stages of a GPU run have in common: sizes, a model, rows, a clock and a result file."""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.flops.model import ModelShape
from megatron_packing.flops.models import MODELS
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import Strategy

ROOT = Path(__file__).resolve().parents[2]
PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 FLOP/s by the vendor's data sheets, by a part of the card's name."""
WAYS = {"padded": ("padding", False), "random": ("random", False), "packed": ("optimal", True)}
"""For each way to fill rows: the strategy, and whether a document attends only to itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """The sizes of one run: those of Llama 3 8B on a GPU, tiny ones in a dry run."""

    dry: bool
    shape: ModelShape
    rows: tuple[int, ...]
    """Sequence lengths that are measured."""
    check_row: int
    """Sequence length of what is compared with float64."""
    repeats: int
    corpora: tuple[tuple[str, Path], ...]
    """Names and prefixes; the first has real tokens."""
    tokenizer: Path
    out: Path

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.float32 if self.dry else torch.bfloat16

    def save(self, stage: str, result: dict[str, Any]) -> None:
        """Write what a stage knows so far; a run that is cut off keeps it."""
        path = self.out / f"{stage}.json"
        path.with_suffix(".tmp").write_text(json.dumps(result, indent=1))
        path.with_suffix(".tmp").replace(path)


def open_ground(brought: Path, work: Path, out: Path, dry: bool) -> Ground:
    """Choose sizes and corpora. In a dry run CUDA's functions are replaced by stand-ins."""
    if dry:
        from cpu_trainer import run_cuda_code_on_cpu

        run_cuda_code_on_cpu()
    corpora = [("chitchat", brought / "chitchat" / "corpus")]
    corpora += [(path.stem, work / path.stem) for path in sorted(brought.glob("*.npy"))]
    tiny = ModelShape(
        name="tiny",
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=128,
        num_heads=4,
        num_query_groups=2,
        vocabulary_size=32_768,
    )
    return Ground(
        dry=dry,
        shape=tiny if dry else MODELS["8b"],
        rows=(256, 512) if dry else (8_192, 32_768),
        check_row=128 if dry else 2_048,
        repeats=2 if dry else 12,
        corpora=tuple(corpora),
        tokenizer=brought / "chitchat" / "tokenizer",
        out=out,
    )


def write_corpora(brought: Path, work: Path) -> None:
    """Make corpora of the token counts that were brought."""
    for path in brought.glob("*.npy"):
        write_random_tokens(work / path.stem, np.load(path))


def write_random_tokens(prefix: Path, num_tokens: np.ndarray) -> None:
    """Write a corpus of given lengths where only lengths matter: speed does not ask for words."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lengths = num_tokens.astype(np.int64)
    with IndexedDatasetWriter(prefix, np.dtype(np.uint16)) as tokens:
        tokens.add(random.integers(0, 32_000, lengths.sum(), dtype=np.uint16), lengths)
    with IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as masks:
        masks.add(np.ones(lengths.sum(), np.uint8), lengths)


def start_megatron(ground: Ground) -> None:
    """Initialize one rank."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    if torch.distributed.is_initialized():
        return
    if not ground.dry:
        torch.cuda.set_device(0)
    store = torch.distributed.FileStore(f"{tempfile.mkdtemp()}/store", 1)
    backend = "gloo" if ground.dry else "nccl"
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    # A generator that a CUDA graph may use; it exists with Transformer Engine alone.
    model_parallel_cuda_manual_seed(1, te_rng_tracker=not ground.dry)


def make_model(ground: Ground, *, num_layers: int, row: int, **changes: Any) -> torch.nn.Module:
    """Megatron's GPTModel in the shape of the run, by Transformer Engine on a GPU.

    Args:
        ground: Of the run.
        num_layers: How many of its layers.
        row: Positions of a row.
        changes: Of the fields of TransformerConfig.
    """
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig

    from megatron_packing.megatron.layer_spec import packed_layer_spec

    start_megatron(ground)
    shape, fused = ground.shape, not ground.dry
    fields: dict[str, Any] = {
        "num_layers": num_layers,
        "hidden_size": shape.hidden_size,
        "ffn_hidden_size": shape.ffn_hidden_size,
        "num_attention_heads": shape.num_heads,
        "num_query_groups": shape.num_query_groups,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "gated_linear_unit": True,
        "activation_func": torch.nn.functional.silu,
        "bias_activation_fusion": fused,
        "apply_rope_fusion": fused,
        "cross_entropy_loss_fusion": fused,
        "cross_entropy_fusion_impl": "te" if fused else "native",
        "persist_layer_norm": fused,
        "transformer_impl": "transformer_engine" if fused else "local",
        "calculate_per_token_loss": True,
        "use_cpu_initialization": ground.dry,
        "bf16": fused,
        "params_dtype": ground.dtype,
        "pipeline_dtype": ground.dtype,
    }
    config = TransformerConfig(**(fields | changes))
    return GPTModel(
        config,
        packed_layer_spec(config),
        vocab_size=shape.vocabulary_size,
        max_sequence_length=row,
        position_embedding_type="rope",
        rotary_base=500_000,
        share_embeddings_and_output_weights=False,
    ).cuda()


def make_dataset(prefix: Path, row: int, strategy: Strategy, **changes: Any) -> Any:
    """The real dataset class over a corpus, built by Megatron's builder.

    Args:
        prefix: Of the corpus.
        row: Positions in a row.
        strategy: How it is packed.
        **changes: Other fields of ``PlanSettings``.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.tokenizers import MegatronTokenizer

    from megatron_packing.megatron.config import PackedDatasetConfig
    from megatron_packing.megatron.dataset import PackedDataset

    tokenizer = MegatronTokenizer.from_pretrained(
        metadata_path={"library": "null-text"}, vocab_size=32_768
    )
    config = PackedDatasetConfig(
        random_seed=1,
        sequence_length=row,
        split="100,0,0",
        blend=([str(prefix)], None),
        path_to_cache=str(prefix.parent / "cache"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        packing=PlanSettings(
            sequence_length=row,
            strategy=strategy,
            overlong="error" if strategy == "random" else "truncate",  # random cuts them
            seed=1,
            **changes,
        ),
    )
    sizes = [None, None, None]
    return BlendedMegatronDatasetBuilder(PackedDataset, sizes, lambda: True, config).build()[0]


def packs_of_several(dataset: Any, count: int) -> list[int]:
    """The first rows that hold several documents; with one alone a mask would change nothing."""
    several = (
        number
        for number in range(len(dataset))
        if int((dataset[number]["real_lengths"] > 0).sum()) > 1
    )
    return list(itertools.islice(several, count))


def batches(dataset: Any, numbers: list[int]) -> list[Any]:
    """Rows of a dataset as forward_step gets them, on the device."""
    from torch.utils.data import DataLoader, Subset

    from megatron_packing.megatron.batch import get_batch

    loader = iter(DataLoader(Subset(dataset, numbers), batch_size=1))
    return [get_batch(loader) for _ in numbers]


def losses_of(model: Any, batch: Any, *, packed: bool) -> torch.Tensor:
    """Losses ``(1, row)``; without packing documents see those before them."""
    from megatron_packing.megatron.batch import run_model

    if packed:
        return run_model(model, batch)
    losses: torch.Tensor = model(batch.tokens, batch.position_ids, None, labels=batch.labels)
    return losses


def loss_of(model: Any, batch: Any, *, packed: bool) -> torch.Tensor:
    """Sum of the losses of the trained tokens of a row."""
    losses = losses_of(model, batch, packed=packed)
    return (losses.view(-1).float() * batch.loss_mask.view(-1)).sum()


def squares(batch: Any) -> int:
    """The sum of squared lengths of what attends in a packed row."""
    lengths = torch.diff(batch.packed_seq_params.cu_seqlens_q.long().cpu())
    return int((lengths**2).sum())


def milliseconds(work: Callable[[], object], repeats: int, in_a_row: int = 1) -> float:
    """The median time of some work on the device, after a warm-up.

    Small kernels end sooner than the host starts the next: let it start several in a row.
    """
    work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(in_a_row):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / in_a_row)
    return statistics.median(times)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is expected; infinite for NaN.

    Where next to nothing is expected, as for the queries' gradient in a document of one token, a
    tenth of values of size one stands for the norm.
    """
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    least = 0.1 * expected.numel() ** 0.5
    error = ((found - expected).norm() / expected.norm().clamp_min(least)).item()
    return error if error == error else float("inf")


def free_memory() -> None:
    """Forget what a model left, and the peak."""
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    import sys

    write_corpora(Path(sys.argv[1]), Path(sys.argv[2]))
