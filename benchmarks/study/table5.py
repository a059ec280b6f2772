# SPDX-License-Identifier: Apache-2.0
"""Table 5 of arXiv 2410.08081 again: steps and time of padding and packing in the real trainer.

    python -m benchmarks.study.table5 --csv FILE.csv [--folder DIR]

Trains a small GPT by Megatron's pretrain() on the CPU, on real conversations, for the same number
of epochs in each way. With ``rows`` every step has the same number of rows, as in the paper; there
padding cuts long documents, random cuts where rows end and greedy drops long documents. With
``documents`` every step has about as many documents as one of optimal. Each run appends a line to
the CSV file; start the command again to go on with those that are missing. The tables are Markdown.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.data import make_tokenizer, read_conversations, text_of
from benchmarks.study.markdown import table
from benchmarks.study.results import append_result, read_results
from megatron_packing import Corpus, PackIndex
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import Overlong, PlanSettings
from megatron_packing.planning.strategies import Strategy
from megatron_packing.report.console import console
from megatron_packing.tokenize.run import TokenizeOptions, tokenize

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import chitchat
import demo

ROW = demo.SEQUENCE_LENGTH
ROWS_PER_STEP = 4
MODES = ("rows", "documents")
VALIDATION = re.compile(
    r"validation loss at iteration \d+ on validation set \| lm loss value: (\S+)"
)

PUBLISHED = {
    "WildChat (GPT-4) 8B": (1964, 728, 492, 2.67, 3.86),
    "WildChat (GPT-4) 70B": (2943, 1092, 741, 2.54, 3.70),
    "TULU 8B": (9183, 1928, 1956, 4.17, 3.69),
    "TULU 70B": (13761, 2889, 2931, 4.17, 3.95),
    "WildChat 8B": (18340, 5348, 4780, 3.43, 3.76),
    "WildChat 70B": (27510, 8025, 7170, 3.39, 3.90),
    "Open-source 1M 8B": (33064, 5400, 5104, 6.12, 6.27),
    "Open-source 1M 70B": (49596, 8103, 7653, 6.18, 6.73),
}
"""Steps of padding, random and greedy packing, and by how much random and greedy packing were
faster than padding: table 5 of arXiv 2410.08081."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make rows, and what becomes of documents that are longer than one."""

    name: str
    strategy: Strategy
    overlong: Overlong = "error"


WAYS = (
    Way("padding", "padding", "truncate"),
    Way("random", "random"),
    Way("greedy", "greedy", "drop"),
    Way("greedy, nothing lost", "greedy", "split"),
    Way("optimal", "optimal", "split"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """A finished run."""

    equal: str
    """What every step has equally many of: ``rows`` or ``documents``."""
    way: str
    epochs: int
    documents: int
    rows: int
    """Of an epoch."""
    rows_per_step: int
    documents_per_step: float
    lost: float
    """Share of the positions that are never trained."""
    utilisation: float
    steps: int
    cpu_seconds: float
    validation_loss: float
    """Mean loss of a trained token of documents that were not trained, each seen alone."""


def prepare(folder: Path, documents: int, vocabulary: int | None = None) -> Corpus:
    """Tokenize the first conversations, unless that was done.

    Args:
        folder: A folder for this corpus alone.
        documents: The number of conversations.
        vocabulary: Train a tokenizer of so many tokens on them; None for the example's tokenizer.
    """
    prefix = folder / "chitchat"
    conversations = folder / "conversations.jsonl"
    if not Path(f"{prefix}.idx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        chitchat.write_conversations(conversations)
        lines = conversations.read_text(encoding="utf-8").splitlines(keepends=True)
        conversations.write_text("".join(lines[:documents]), encoding="utf-8")
        if vocabulary is None:
            chitchat.write_tokenizer(folder / "tokenizer")
        else:
            texts = map(text_of, read_conversations(conversations))
            make_tokenizer(folder / "tokenizer", texts, vocabulary)
        tokenize(
            TokenizeOptions(
                inputs=[conversations], output_prefix=prefix, tokenizer=str(folder / "tokenizer")
            )
        )
    corpus = Corpus(prefix)
    if len(corpus) != documents:
        sys.exit(f"error: {prefix} has {len(corpus)} documents; give another --folder")
    return corpus


def make_index(corpus: Corpus, way: Way, documents: range, row: int | None = None) -> PackIndex:
    """Pack documents in one way into rows of so many positions, unless that was done."""
    name = f"{way.strategy}_{way.overlong}_{documents.start}_{documents.stop}"
    path = corpus.folder / name
    if path.exists():
        return PackIndex.open(path)
    settings = PlanSettings(
        sequence_length=row or ROW, strategy=way.strategy, overlong=way.overlong
    )
    return build_pack_index(corpus, settings, path, documents=documents)


def run_one(
    equal: str, way: Way, corpus: Corpus, documents: int, validation: int, epochs: int
) -> Timing:
    """Train in one way."""
    trained = range(documents)
    index = make_index(corpus, way, trained)
    rows_per_step = ROWS_PER_STEP
    if equal == "documents":
        best = make_index(corpus, WAYS[-1], trained)
        rows_per_step = max(1, round(ROWS_PER_STEP * len(index) / len(best)))
    steps = max(1, round(epochs * len(index) / rows_per_step))
    held_out = make_index(
        corpus, Way("", "padding", "truncate"), range(documents, documents + validation)
    )
    share = 100 * documents / (documents + validation)
    flags = f"""
        --split {share},{100 - share},0 --packing-indexes {index.path} {held_out.path}
        --eval-iters {len(held_out)} --eval-interval {steps} --eval-global-batch-size 1
    """
    name = f"{equal}_{way.name}".replace(", ", "_").replace(" ", "_")
    run = demo.train(name, corpus.folder, index, steps, rows_per_step, flags)
    found = VALIDATION.findall((corpus.folder / f"{name}.log").read_text())
    positions = int((corpus.num_tokens[:documents] - 1).sum())
    figures = index.figures
    kept = documents - figures.num_documents_dropped
    return Timing(
        equal=equal,
        way=way.name,
        epochs=epochs,
        documents=documents,
        rows=len(index),
        rows_per_step=rows_per_step,
        documents_per_step=round(epochs * kept / steps, 2),
        lost=round(1 - figures.num_positions / positions, 4),
        utilisation=round(figures.utilisation, 4),
        steps=steps,
        cpu_seconds=round(run.seconds, 1),
        validation_loss=round(float(found[-1]), 4),
    )


def measured_table(path: Path) -> str:
    """Return what was measured, as a Markdown table."""
    timings = read_results(path, Timing)
    headings = (
        "way, equal, rows, utilization, lost, rows a step, documents a step, steps, CPU s, "
        "fewer rows, speed-up, validation loss"
    )
    return table(
        headings.split(", "),
        (
            (
                one.way,
                one.equal,
                f"{one.rows}",
                f"{one.utilisation:.1%}",
                f"{one.lost:.1%}",
                f"{one.rows_per_step}",
                f"{one.documents_per_step:.1f}",
                f"{one.steps}",
                f"{one.cpu_seconds:.0f}",
                f"{padding.rows / one.rows:.2f}",
                f"{padding.cpu_seconds / one.cpu_seconds:.2f}",
                f"{one.validation_loss:.3f}",
            )
            for one in timings
            for padding in timings
            if padding.way == "padding" and padding.equal == one.equal
        ),
    )


def published_table() -> str:
    """Return the paper's steps and what they say about lost tokens, as a Markdown table.

    Random packing loses nothing and fills every row, so its steps hold all tokens. Where greedy
    packing takes fewer steps of as many rows, it lost at least the rest.
    """
    headings = (
        "data and model, steps padded, random, greedy, faster: random, greedy, "
        "fewer steps: random, greedy, lost by greedy at least"
    )
    return table(
        headings.split(", "),
        (
            (
                name,
                *(f"{steps}" for steps in (padding, random, greedy)),
                *(f"{factor:.2f}" for factor in faster),
                f"{padding / random:.2f}",
                f"{padding / greedy:.2f}",
                f"{max(0.0, 1 - greedy / random):.0%}",
            )
            for name, (padding, random, greedy, *faster) in PUBLISHED.items()
        ),
    )


def main() -> None:
    """Go on, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(".study/table5"), metavar="DIR")
    parser.add_argument("--documents", type=int, default=160, help="to train on")
    parser.add_argument("--validation", type=int, default=40, help="documents to measure on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=[way.name for way in WAYS],
        default=[way.name for way in WAYS],
    )
    parser.add_argument("--show", action="store_true", help="print the tables alone")
    args = parser.parse_args()
    if not args.show:
        corpus = prepare(args.folder, args.documents + args.validation)
        comment = f"python -m benchmarks.study.table5 {' '.join(sys.argv[1:])}"
        for equal in MODES:
            for way in WAYS:
                done = {(one.equal, one.way) for one in read_results(args.csv, Timing)}
                if way.name in args.ways and (equal, way.name) not in done:
                    timing = run_one(
                        equal, way, corpus, args.documents, args.validation, args.epochs
                    )
                    append_result(args.csv, timing, comment)
    console.print(measured_table(args.csv))
    console.print(published_table())


if __name__ == "__main__":
    main()
