# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing tokenize``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from megatron_packing.chat.template import GIVEN_VARIABLES
from megatron_packing.chat.turns import LossOn
from megatron_packing.corpus.storage import is_remote
from megatron_packing.errors import InputError
from megatron_packing.report.tokenizing import (
    print_result,
    progress_line,
    show_search,
    warn_of_memory,
)
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.schemas.table import SCHEMAS
from megatron_packing.tokenize.run import (
    LARGEST_LIMIT,
    EngineName,
    OnBadRecord,
    TokenizeOptions,
    tokenize,
)
from megatron_packing.tokenize.signals import signals_interrupt
from megatron_packing.tokenize.unfinished import unfinished_path

_DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(TokenizeOptions)}
_PYTHON_VALUES = {"True": True, "False": False, "None": None}

HELP = "turn conversations or texts into a Megatron corpus with loss masks"
EXAMPLE = (
    "megatron-packing tokenize chat.jsonl --output-prefix data/chat --tokenizer data/tokenizer"
)
JSON_KEYS = {
    "prefix": "the prefix of the corpus",
    "num_records": "records that were read",
    "num_documents": "documents in the corpus",
    "num_tokens": "tokens in the corpus",
    "num_trained_tokens": "tokens that are trained",
    "longest_document": "tokens of the longest document",
    "num_rejects": "records that were not used",
    "rejects": "number of records that were not used, by reason",
    "schemas": "number of documents, by the schema of their records",
    "num_unmarked_answers": "answers that their records mark as untrained",
    "unmatched_mappings": "--field and --role mappings that matched nothing in any record",
}


def _prefix(given: str) -> Path:
    """Refuse what other commands would not find again."""
    if given.endswith("/"):
        raise ArgumentTypeError(f"{given} is a folder; give the beginning of a file name in it")
    if ":" in given and not is_remote(given):
        raise ArgumentTypeError(
            f"{given} has a colon, which stands before a number of times in pack; leave it out"
        )
    return Path(given)


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
        "--output-prefix",
        type=_prefix,
        required=True,
        metavar="P",
        help="write the corpus to P.bin, P.idx and files beside them",
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="PATH_OR_NAME",
        help="a Hugging Face folder, a tokenizer.json, a tekken.json, a tiktoken or SentencePiece "
        "file, or the name of a downloaded model",
    )
    parser.add_argument(
        "--chat-template",
        metavar="FILE_OR_NAME",
        help="a Jinja file, or the name of one of the tokenizer's templates (default: the "
        "tokenizer's own template)",
    )
    parser.add_argument(
        "--allow-other-template",
        action="store_true",
        help="accept and count records of which the template leaves out untrained parts or ends "
        "answers without a special token (default: refuse them)",
    )
    parser.add_argument(
        "--template-argument",
        dest="template_arguments",
        type=_name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the template, such as enable_thinking=false; may be repeated "
        "(default: those that the records give)",
    )
    parser.add_argument(
        "--date",
        default=_DEFAULTS["date"],
        metavar="YYYY-MM-DD",
        help="the date that templates write as today (default: the day on which the run started)",
    )
    parser.add_argument(
        "--loss-on",
        choices=get_args(LossOn),
        default=_DEFAULTS["loss_on"],
        help="the messages that are trained (default: assistant, every assistant message and the "
        "token that ends it)",
    )
    parser.add_argument(
        "--schema",
        choices=SCHEMAS,
        default=_DEFAULTS["schema"],
        help="the schema of the records (default: detected from the fields of each record)",
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
        "--end-token",
        default=_DEFAULTS["end_token"],
        metavar="TOKEN",
        help="the token that ends a plain text (default: the tokenizer's eos_token)",
    )
    parser.add_argument(
        "--on-bad-record",
        choices=get_args(OnBadRecord),
        default=_DEFAULTS["on_bad_record"],
        help="stop at the first bad record, or skip bad records and list them in P_rejects.jsonl "
        "(default: error)",
    )
    parser.add_argument(
        "--max-record-bytes",
        type=int,
        default=_DEFAULTS["max_record_bytes"],
        metavar="N",
        help="the most bytes of a record; longer ones are bad. A worker may use 105 times the "
        f"bytes of its record as memory (default: {_DEFAULTS['max_record_bytes'] >> 20} MiB)",
    )
    parser.add_argument(
        "--engine",
        choices=get_args(EngineName),
        default=_DEFAULTS["engine"],
        help="processes of this machine, or a Ray cluster (RAY_ADDRESS) (default: local)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="the number of workers (default: one per core; on a Ray cluster one per free core, "
        "and more when nodes are added)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="discard the work of an unfinished run (default: continue it)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=_DEFAULTS["checkpoint_seconds"],
        metavar="S",
        help="seconds between checkpoints; a killed run loses at most this much (default: "
        f"{_DEFAULTS['checkpoint_seconds']:g})",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Tokenize."""
    names = RecordNames(_mapping("--field", args.field), _mapping("--role", args.role))
    given = {
        one.name: getattr(args, one.name) for one in fields(TokenizeOptions) if one.name in args
    }
    given["template_arguments"] = dict(args.template_arguments)
    options = TokenizeOptions(names=names, **given)
    if options.max_record_bytes < LARGEST_LIMIT:  # a larger one is refused
        warn_of_memory(options.max_record_bytes)
    try:
        with signals_interrupt(), progress_line() as (show, show_workers):
            progress = tokenize(options, show, show_search, show_workers)
    except KeyboardInterrupt:
        if not unfinished_path(args.output_prefix).exists():
            raise
        raise KeyboardInterrupt("interrupted; run the same command again to resume") from None
    print_result(args.output_prefix, progress)
    values = {"prefix": str(args.output_prefix), "num_rejects": progress.num_rejects}
    return values | {key: getattr(progress, key) for key in JSON_KEYS if key not in values}


def _pair(text: str) -> tuple[str, str]:
    name, equals, meaning = text.rpartition("=")
    if not equals or not name or not meaning:
        raise ArgumentTypeError(f"{text!r} is not NAME=FIELD or NAME=ROLE")
    return name, meaning


def _mapping(option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for name, meaning in pairs:
        if meanings.setdefault(name, meaning) != meaning:
            raise InputError(
                f"{option} gives {name!r} two meanings, {meanings[name]} and {meaning}; "
                f"give one of them"
            )
    return meanings


def _name_and_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if name in GIVEN_VARIABLES:
        raise ArgumentTypeError(f"{name} is set from the records and cannot be given")
    if value in _PYTHON_VALUES:
        return name, _PYTHON_VALUES[value]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
