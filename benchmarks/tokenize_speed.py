# SPDX-License-Identifier: Apache-2.0
"""Times tokenizing beside the tokenizer alone, and two workers beside one, in one run.

    python benchmarks/tokenize_speed.py INPUT... --tokenizer PATH [--chat-template FILE]
        [--repeats N] [--json FILE]

"alone" is the tokenizer's own batch encoding of the same texts, rendered beforehand, on one core,
down to lists of tokens: transformers' ``tokenizer(texts)``, or tiktoken's ``encode_batch``. "bare"
is the fastest call of the library under transformers. "ours" reads, parses, checks, renders,
encodes, finds what is trained and writes. They take turns batch by batch. Workers are timed as
whole commands, from the first batch on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import write_json
from rich.console import Console

from megatron_packing.chat.template import ChatTemplate
from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.schemas.conversations import Conversation, read_record
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenize.progress import Progress
from megatron_packing.tokenize.provenance import describe_job
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from megatron_packing.tokenize.unfinished import UnfinishedCorpus
from megatron_packing.tokenizers.find import find_tokenizer
from megatron_packing.tokenizers.source import TokenizerSource

console = Console(highlight=False)


def encodings_alone(source: TokenizerSource) -> dict[str, Callable[[list[str]], Any]]:
    """The tokenizer's own batch encodings."""
    if source.kind == "tokenizer.json":
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        bare = Tokenizer.from_str(source.content)
        whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(source.content))

        def encode(texts: list[str]) -> Any:
            encodings = bare.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]

        return {
            "alone": lambda texts: whole(texts, add_special_tokens=False, verbose=False),
            "bare": encode,
        }
    encoding = source.open()._encoding  # type: ignore[attr-defined]
    return {
        "alone": lambda texts: encoding.encode_batch(
            texts, num_threads=1, allowed_special="all", disallowed_special=()
        )
    }


def per_core(paths: list[str], options: EncoderOptions, folder: Path) -> dict[str, float]:
    """Seconds that ours and the tokenizer alone take for the same records on one core."""
    source = options.tokenizer
    template = ChatTemplate(options.chat_template or "", source.special_tokens, options.date)
    inputs = find_inputs(paths)
    encoder = Encoder(options)
    others = encodings_alone(source)
    seconds = dict.fromkeys(["ours", *others], 0.0)

    def texts_of(batch: RecordBatch) -> list[str]:
        records = (read_record(read()) for _, read in batch.records())
        return [
            template.render(record.messages, record.tools, prompt=False)
            for record in records
            if isinstance(record, Conversation)
        ]

    with UnfinishedCorpus(folder / "core", describe_job(inputs, options)) as unfinished:
        batches = read_batches(inputs, Position(), 1 << 24)
        number = 0
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            seconds["ours"] += time.perf_counter() - begin
            if batch is None:
                break
            texts = texts_of(batch)
            for who in seconds if number % 2 else reversed(seconds):
                begin = time.perf_counter()
                if who == "ours":
                    encoded = encoder.encode(batch)
                    unfinished.add(inputs[batch.input], batch, encoded)
                else:
                    others[who](texts)
                seconds[who] += time.perf_counter() - begin
            number += 1
        tokens = unfinished.progress.num_tokens
    shares = {f"share_of_{who}": seconds[who] / seconds["ours"] for who in others}
    return {**seconds, "tokens": tokens, **shares}


def whole_command(options: TokenizeOptions) -> float:
    """Seconds from the first batch to the last."""
    times: list[float] = []

    def note(_done: int, _total: int, progress: Progress) -> None:
        if progress.num_records:
            times.append(time.perf_counter())

    tokenize(options, note)
    return times[-1] - times[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    source = find_tokenizer(args.tokenizer)
    template = args.chat_template.read_text() if args.chat_template else source.chat_template
    options = EncoderOptions(tokenizer=source, chat_template=template, date="2026-01-01")
    result: dict[str, Any] = {"inputs": args.inputs, "tokenizer": args.tokenizer}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = []
        for number in range(args.repeats):
            (folder / str(number)).mkdir()
            runs.append(per_core(args.inputs, options, folder / str(number)))
        result |= sorted(runs, key=lambda run: run["share_of_alone"])[len(runs) // 2]
        bare = result.get("share_of_bare")
        console.print(
            f"one core: {result['tokens'] / result['ours'] / 1e6:.2f} million tokens/s, "
            f"{result['share_of_alone']:.1%} of the tokenizer alone"
            + (f", {bare:.1%} of the bare library" if bare else "")
        )
        speed: dict[int, list[float]] = {1: [], 2: []}
        for number in range(args.repeats):
            for workers in speed:
                run_options = TokenizeOptions(
                    inputs=args.inputs,
                    output_prefix=folder / f"{number}-{workers}",
                    tokenizer=args.tokenizer,
                    chat_template=args.chat_template,
                    on_bad_record="skip",
                    workers=workers,
                )
                speed[workers].append(whole_command(run_options))
        result["two_workers"] = min(speed[1]) / min(speed[2])
        console.print(f"two workers: {result['two_workers']:.2f} times one")
    if args.json:
        write_json(args.json, [json.loads(json.dumps(result))])


if __name__ == "__main__":
    main()
