# SPDX-License-Identifier: Apache-2.0
"""Runs a model over rows of documents without a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from megatron_packing.errors import InputError
from megatron_packing.probe.attention import Recorder
from megatron_packing.probe.checkpoint import load_checkpoint
from megatron_packing.probe.result import Neighbors, Positions, ProbeResult, Variant, VariantResult
from megatron_packing.probe.rows import ProbeDocuments, ProbeRow

NEIGHBORS: tuple[Neighbors, ...] = ("random", "similar")
POSITIONS: tuple[Positions, ...] = ("continue", "restart")


def probe(
    checkpoint: Path,
    documents: ProbeDocuments,
    end_tokens: Sequence[int],
    device: str,
    progress: Callable[[float], None] = lambda _: None,
) -> ProbeResult:
    """Measure a checkpoint in all variants.

    Args:
        checkpoint: See ``load_checkpoint``.
        documents: What is measured.
        end_tokens: Each is tried between documents, beside none.
        device: Where the model runs.
        progress: Called with the share of the work that is done.

    Raises:
        InputError: The checkpoint cannot be loaded or measured, or its vocabulary is too small.
    """
    model = load_checkpoint(checkpoint, device)
    _check_vocabulary(model, checkpoint, documents, end_tokens)
    alone = Variant(neighbors="none")
    variants = [
        Variant(neighbors=neighbors, positions=positions, end_token=end_token)
        for neighbors in NEIGHBORS
        for positions in POSITIONS
        for end_token in (None, *end_tokens)
    ]
    done, results = 0, []
    for variant in (alone, *variants):
        recorder = Recorder()
        losses, shares, uniform = [], [], []
        for document in documents.measured:
            row = documents.row(document, variant)
            losses.append(run_row(model, row, recorder))
            shares.append(torch.stack(recorder.shares).numpy())
            uniform.append(recorder.uniform.numpy())
            done += 1
            progress(done / (len(documents.measured) * (1 + len(variants))))
        results.append(
            VariantResult(
                variant=variant,
                losses=np.array(losses),
                shares=np.mean(shares, axis=0, dtype=np.float64),
                uniform=np.mean(uniform, axis=0, dtype=np.float64),
            )
        )
    return ProbeResult(
        checkpoint=str(checkpoint),
        num_documents=len(documents.measured),
        documents_per_row=documents.documents_per_row,
        alone=results[0],
        variants=results[1:],
    )


def run_row(model: Any, row: ProbeRow, recorder: Recorder) -> float:
    """Run a row and record the attention of its measured document.

    Returns:
        The mean loss of the document's trained tokens.

    Raises:
        InputError: The model does not compute attention where it can be recorded.
    """
    recorder.start_row(torch.from_numpy(row.targets), len(row.labels))
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(row.tokens)[None].to(model.device),
            position_ids=torch.from_numpy(row.position_ids)[None].to(model.device),
            use_cache=False,
            recorder=recorder,
            logits_to_keep=len(row.labels),
        )
    if not recorder.shares:
        raise InputError(
            f"{type(model).__name__} does not compute attention through transformers' attention "
            f"interface, so nothing can be recorded; give a model such as Llama or Qwen"
        )
    trained = torch.from_numpy(row.trained)
    logits = output.logits[0, trained.to(model.device)].float().cpu()
    return float(cross_entropy(logits, torch.from_numpy(row.labels)[trained]))


def _check_vocabulary(
    model: Any, checkpoint: Path, documents: ProbeDocuments, end_tokens: Sequence[int]
) -> None:
    size = model.get_input_embeddings().num_embeddings
    largest = max(documents.largest_token, *end_tokens)
    if largest >= size:
        raise InputError(
            f"{documents.corpus.prefix} or --end-token has the token {largest}, but {checkpoint} "
            f"has {size} tokens; give a corpus that was tokenized for this model"
        )
