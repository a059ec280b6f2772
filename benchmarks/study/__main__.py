# SPDX-License-Identifier: Apache-2.0
"""What packing does to quality: tunes one model in many ways and measures held-out loss.

    python -m benchmarks.study tiny --first FIRST.jsonl --tune A.jsonl B.jsonl --csv FILE.csv

Each (condition, seed) of conditions.py appends a line to the CSV file when it ends. Start the same
command again to go on: runs that the file has are left out, and a run that was stopped goes on
where it last was saved in --folder. ``benchmarks.study.table`` compares the conditions.

``tiny`` is a Llama of a million parameters that is trained on --first before, ``causes`` one of a
fifth of that, with more seeds for what explains a small difference. ``smollm2`` is the model in the
folder --model, a Hugging Face checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.study.batches import lay, plan_steps, rows_of
from benchmarks.study.conditions import CAUSES, MAIN, NORMALISERS, Condition
from benchmarks.study.data import Data, make_tokenizer, prepare, read_conversations, text_of
from benchmarks.study.models import (
    compute_in_bfloat16,
    hash_weights,
    load_model,
    make_tiny_model,
    single_loss,
)
from benchmarks.study.results import Result, append_result, read_results
from benchmarks.study.train import Trained, Training, train
from megatron_packing import Corpus, PackIndex
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """The size of a study."""

    conditions: list[Condition]
    seeds: int
    epochs: int
    documents: int
    held_out: int
    row: int
    """Positions of a row."""
    rows_per_step: int
    """Of packed rows; the other conditions have as many documents in a step."""
    training: Training
    hidden: int = 128
    layers: int = 4


STUDIES = {
    "tiny": Study(
        conditions=[*MAIN, *NORMALISERS],
        seeds=5,
        epochs=3,
        documents=300,
        held_out=200,
        row=1024,
        rows_per_step=2,
        training=Training(learning_rate=2e-3),
    ),
    "causes": Study(
        conditions=[
            *(one for one in MAIN if one.attention == "document" and not one.padded),
            *CAUSES,
        ],
        seeds=6,
        epochs=3,
        documents=600,
        held_out=200,
        row=1024,
        rows_per_step=4,
        training=Training(learning_rate=4e-3),
        hidden=64,
        layers=2,
    ),
    "smollm2": Study(
        conditions=[one for one in MAIN if not one.padded],
        seeds=3,
        epochs=1,
        documents=600,
        held_out=200,
        row=1024,
        rows_per_step=4,
        training=Training(learning_rate=1e-4, positions_at_once=2048),
    ),
}
VOCABULARY = 2048
FIRST_DOCUMENTS, FIRST_HELD_OUT = 2400, 100


def make_first_model(folder: Path, first: Path, tune: list[Path], study: Study) -> None:
    """Train a tokenizer and a small model, unless they exist."""
    tokenizer, base = folder / "tokenizer", folder / "base"
    if not tokenizer.exists():
        texts = (text_of(one) for path in (first, *tune) for one in read_conversations(path))
        make_tokenizer(folder / "tokenizer.tmp", texts, VOCABULARY)
        (folder / "tokenizer.tmp").rename(tokenizer)
    if base.exists():
        return
    data = prepare(folder / "first", tokenizer, [first], FIRST_DOCUMENTS, FIRST_HELD_OUT, study.row)
    model = make_tiny_model(VOCABULARY, study.row, 0, study.hidden, study.layers)
    condition = Condition(name="first", strategy="optimal")
    tune_once(model, condition, data, folder, replace(study, epochs=1, rows_per_step=6), seed=0)
    model.save_pretrained(folder / "base.tmp")
    (folder / "base.tmp").rename(base)
    (folder / "state.pt").unlink(missing_ok=True)


def tune_once(
    model: PreTrainedModel, condition: Condition, data: Data, folder: Path, study: Study, seed: int
) -> Trained:
    """Train a model in one way, in place, and measure it after each epoch."""
    corpus = Corpus(data.training_with_end if condition.end_token else data.training)
    index = _index(corpus, condition.strategy, study.row, seed)
    num_packs = study.epochs * len(_index(Corpus(data.training), "optimal", study.row, seed))
    if condition.equal == "rows":
        num_packs = study.epochs * len(index)
    rows = rows_of(condition, index, corpus, seed)
    steps = plan_steps(condition, rows, study.epochs, round(num_packs / study.rows_per_step))
    return train(
        model,
        steps,
        partial(lay, rows),
        study.training,
        epochs=study.epochs,
        measure=partial(measure, data=data, study=study),
        padded=condition.padded,
        state=folder / "state.pt",
    )


def measure(model: PreTrainedModel, data: Data, study: Study) -> list[float]:
    """Return the mean loss of each held-out document, alone in its batch."""
    corpus = Corpus(data.held_out)
    index = _index(corpus, "padding", study.row, seed=0)
    rows = rows_of(Condition(name="held out", strategy="padding"), index, corpus, seed=0)
    by_document = {
        int(segments.document_ids[0]): segments
        for segments in map(rows.segments, range(len(corpus)))
    }
    return [single_loss(model, lay(rows, by_document[one])) for one in range(len(corpus))]


def held_out_trained(data: Data) -> np.ndarray:
    """Return the trained tokens of each held-out document."""
    corpus = Corpus(data.held_out)
    return np.array([int(corpus.loss_mask(one).sum()) for one in range(len(corpus))])


def missing_runs(
    study: Study,
    seeds: Iterable[int],
    csv: Path,
    base: str,
    data: str,
    only: list[str] | None,
) -> Iterator[tuple[Condition, int]]:
    """Yield the runs from these weights, on these data, that the CSV file lacks, seed by seed."""
    for seed in seeds:
        for condition in study.conditions:
            if condition.most_seeds is not None and seed >= condition.most_seeds:
                continue
            has = {
                result.key
                for result in read_results(csv)
                if (result.base, result.data) == (base, data)
            }
            if (condition.name, seed) not in has and (only is None or condition.name in only):
                yield condition, seed


def placed_model(folder: Path, device: str, bfloat16: bool) -> PreTrainedModel:
    """Load a model onto a device."""
    model = load_model(folder).to(device)
    return compute_in_bfloat16(model) if bfloat16 else model


def describe(device: str, bfloat16: bool) -> str:
    """Say what computes, and in which precision."""
    if device == "cpu":
        return f"1 CPU thread, {'bfloat16' if bfloat16 else 'float32'}"
    return f"{torch.cuda.get_device_name(device)}, {'bfloat16' if bfloat16 else 'TF32'}"


def _index(corpus: Corpus, strategy: str, row: int, seed: int) -> PackIndex:
    path = corpus.prefix.with_name(f"{corpus.prefix.name}_{strategy}_{seed}")
    if path.exists():
        return PackIndex.open(path)
    settings = PlanSettings(sequence_length=row, strategy=strategy, seed=seed)
    return build_pack_index(corpus, settings, path)


def main() -> None:
    """Go on with the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument(
        "--first", type=Path, metavar="FILE", help="of tiny and causes: what is trained before"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="of smollm2: the checkpoint")
    parser.add_argument("--tune", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(".study"), metavar="DIR")
    parser.add_argument("--only", nargs="+", metavar="CONDITION", help="run these conditions alone")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="these alone (default: as the study says)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: cpu)")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16, with layers compiled by a C++ compiler (default: float32)",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    study = STUDIES[args.study]
    seeds = args.seeds or range(study.seeds)
    folder = args.folder / args.study
    folder.mkdir(parents=True, exist_ok=True)
    base = tokenizer = args.model
    if args.study != "smollm2":
        make_first_model(folder, args.first, args.tune, study)
        base, tokenizer = folder / "base", folder / "tokenizer"
    data = prepare(
        folder / "data", tokenizer, args.tune, study.documents, study.held_out, study.row
    )
    trained = held_out_trained(data)
    fingerprint = Corpus(data.training).fingerprint[:12]
    digest = hash_weights(load_model(base))
    comment = ""
    if not args.csv.exists():
        model = placed_model(base, args.device, args.bfloat16)
        before = np.dot(measure(model, data, study), trained) / trained.sum()
        comment = (
            f"python -m benchmarks.study {' '.join(sys.argv[1:])}\n"
            f"held-out loss before: {before:.4f}; {describe(args.device, args.bfloat16)}; "
            f"torch {torch.__version__}"
        )
    for condition, seed in missing_runs(study, seeds, args.csv, digest, fingerprint, args.only):
        logging.info("%s, seed %d", condition.name, seed)
        run_folder = folder / f"{condition.name}, seed {seed}"
        run_folder.mkdir(exist_ok=True)
        model = placed_model(base, args.device, args.bfloat16)
        run = tune_once(model, condition, data, run_folder, study, seed)
        tokens = np.array(run.trained_tokens)
        losses = np.array(run.measured)  # epochs, documents
        means = losses @ trained / trained.sum()
        result = Result(
            condition=condition.name,
            seed=seed,
            steps=len(tokens),
            documents_per_step=round(run.documents / len(tokens), 2),
            trained_tokens_per_step=round(tokens.mean(), 1),
            token_spread=round(tokens.std() / tokens.mean(), 4),
            cpu_seconds=round(run.cpu_seconds),
            data=fingerprint,
            base=digest,
            loss_by_epoch=" ".join(f"{mean:.4f}" for mean in means),
            loss=round(means[-1], 5),
            document_losses=" ".join(f"{1000 * loss:.0f}" for loss in losses[-1]),
        )
        append_result(args.csv, result, comment)
        (run_folder / "state.pt").unlink(missing_ok=True)
        run_folder.rmdir()


if __name__ == "__main__":
    main()
