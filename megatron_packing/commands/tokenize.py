# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing tokenize``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.report.tokenizing import (
    print_result,
    progress_line,
    show_search,
    warn_of_memory,
)
from megatron_packing.schemas.conversations import SCHEMAS
from megatron_packing.schemas.record_fields import RecordNames
from megatron_packing.tokenize.engine import signals_interrupt
from megatron_packing.tokenize.run import LARGEST_LIMIT, TokenizeOptions, tokenize
from megatron_packing.tokenize.unfinished import unfinished_path

_PYTHON_VALUES = {"True": True, "False": False, "None": None}

HELP = "turn conversations or texts into a Megatron corpus with loss masks"
EXAMPLE = (
    "megatron-packing tokenize chat.jsonl --output-prefix data/chat --tokenizer data/tokenizer"
)
JSON_KEYS = {
    "prefix": "of the corpus that was written",
    "num_records": "records that were read",
    "num_documents": "documents that they became",
    "num_tokens": "tokens of the documents",
    "num_trained_tokens": "tokens that are trained",
    "longest_document": "in tokens",
    "num_rejects": "records that were not used",
    "rejects": "records that were not used, by what was wrong with them",
    "schemas": "documents by the schema of their records",
    "num_unmarked_answers": "answers that their own marks leave untrained",
    "unmatched_mappings": "--field and --role mappings that matched nothing in any record",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="JSON Lines, a JSON array or JSON objects (plain, .gz or .zst), Parquet, Arrow, or a "
        "folder that Hugging Face datasets saved; a path, a glob in quotes, or a URL that fsspec "
        "opens",
    )
    parser.add_argument(
        "--output-prefix", type=Path, required=True, metavar="P", help="writes P.bin, P.idx, ..."
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="PATH_OR_NAME",
        help="a Hugging Face folder, a tokenizer.json, a tekken.json, a tiktoken or SentencePiece "
        "file, or the name of a model that was downloaded",
    )
    parser.add_argument(
        "--chat-template",
        metavar="FILE_OR_NAME",
        help="a Jinja file, or the name of one of the tokenizer's templates (default: its own)",
    )
    parser.add_argument(
        "--allow-other-template",
        action="store_true",
        help="go on, and count, where the template leaves out parts of a record that are not "
        "trained, or ends answers without a special token (default: refuse)",
    )
    parser.add_argument(
        "--template-argument",
        type=_name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the template, such as enable_thinking=false; may be repeated "
        "(default: those that the records give)",
    )
    parser.add_argument(
        "--date", metavar="YYYY-MM-DD", help="what templates write as today (default: today)"
    )
    parser.add_argument(
        "--loss-on",
        choices=("assistant", "last-assistant", "all"),
        default="assistant",
        help="what is trained (default: every assistant turn and the token that ends it)",
    )
    parser.add_argument(
        "--schema",
        choices=SCHEMAS,
        help="what the records are (default: found by their fields)",
    )
    parser.add_argument(
        "--field",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=FIELD",
        help="read a record's or a message's field NAME as the standard FIELD, such as "
        "question=prompt or sender=role; NAME=ignore leaves it out; may be repeated (default: "
        "fields have their standard names)",
    )
    parser.add_argument(
        "--role",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=ROLE",
        help="read the role NAME as ROLE, such as bing=assistant; may be repeated (default: "
        "roles have their standard names)",
    )
    parser.add_argument(
        "--end-token", metavar="TOKEN", help="what ends a plain text (default: eos_token)"
    )
    parser.add_argument(
        "--on-bad-record",
        choices=("error", "skip"),
        default="error",
        help="stop at the first bad record (default), or write them to P_rejects.jsonl",
    )
    parser.add_argument(
        "--max-record-bytes",
        type=int,
        default=1 << 24,
        metavar="N",
        help="records of more bytes are bad; one may take 105 times its bytes of memory in a "
        "worker (default: 16 MiB)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine (default), or a Ray cluster (RAY_ADDRESS)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes that tokenize (default: one for each core)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="throw away what an unfinished run did (default: go on where it stopped)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="a run that is killed loses the work of so many seconds at most (default: 10)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Tokenize."""
    options = TokenizeOptions(
        inputs=tuple(args.inputs),
        output_prefix=args.output_prefix,
        tokenizer=args.tokenizer,
        chat_template=args.chat_template,
        allow_other_template=args.allow_other_template,
        template_arguments=dict(args.template_argument),
        date=args.date,
        loss_on=args.loss_on,
        schema=args.schema,
        names=RecordNames(_mapping("--field", args.field), _mapping("--role", args.role)),
        end_token=args.end_token,
        on_bad_record=args.on_bad_record,
        max_record_bytes=args.max_record_bytes,
        engine=args.engine,
        workers=args.workers,
        restart=args.restart,
        checkpoint_seconds=args.checkpoint_seconds,
    )
    if options.max_record_bytes < LARGEST_LIMIT:  # else it is refused
        warn_of_memory(options.max_record_bytes)
    try:
        with signals_interrupt(), progress_line() as show:
            progress = tokenize(options, show, show_search)
    except KeyboardInterrupt:
        if not unfinished_path(args.output_prefix).exists():
            raise
        raise KeyboardInterrupt("interrupted; the same command goes on where it stopped") from None
    print_result(args.output_prefix, progress)
    values = {"prefix": str(args.output_prefix), "num_rejects": progress.num_rejects}
    return values | {key: getattr(progress, key) for key in JSON_KEYS if key not in values}


def _pair(text: str) -> tuple[str, str]:
    name, equals, meaning = text.rpartition("=")
    if not equals or not name or not meaning:
        raise ArgumentTypeError(f"{text!r} is not NAME=MEANING")
    return name, meaning


def _mapping(option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for name, meaning in pairs:
        if meanings.setdefault(name, meaning) != meaning:
            raise InputError(
                f"{option} gives {name!r} two meanings, {meanings[name]} and {meaning}"
            )
    return meanings


def _name_and_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if name in ("messages", "tools", "documents", "add_generation_prompt"):
        raise ArgumentTypeError(f"{name} is what the records give, or the run")
    if value in _PYTHON_VALUES:
        return name, _PYTHON_VALUES[value]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
