# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.records.input_file import InputFile
from megatron_packing.report import tokenizing
from megatron_packing.report.tokenizing import (
    print_result,
    progress_line,
    show_search,
    warn_of_memory,
)
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.engine import WorkerCount
from megatron_packing.tokenize.progress import Progress

FILE = InputFile("in.jsonl", 1, "", "lines")


def encoded(notes):
    one = np.ones(1, np.uint8)
    return EncodedBatch(one, one, np.ones(1, np.int32), 1, Counter(openai=1), 0, [], Counter(notes))


def batch():
    return RecordBatch(0, 1, [], 1, Position(), 0)


def test_notes_are_printed_one_line_a_phrase_the_most_frequent_first(capsys):
    progress = Progress()
    progress.add(FILE, batch(), encoded({"a phrase alone": 1, "fields not read: id": 1200}))
    progress.add(FILE, batch(), encoded({"fields not read: [/b]": 2000, "fields not read: id": 1}))
    print_result(Path("out"), progress)
    printed = " ".join(capsys.readouterr().out.split())
    assert "fields not read: [/b] (2,000 documents), id (1,201 documents) a phrase" in printed
    assert "a phrase alone: 1 document 2 tokens" in printed


def test_a_few_of_many_details_are_printed(capsys):
    progress = Progress()
    progress.add(FILE, batch(), encoded({f"fields not read: f{n:02}": 1 for n in range(25)}))
    print_result(Path("out"), progress)
    printed = " ".join(capsys.readouterr().out.split())
    assert "f18 (1 document), f19 (1 document), and 5 more" in printed
    assert "f20" not in printed


def test_notes_without_bound_are_counted_together():
    progress = Progress()
    for number in range(1000):
        progress.add(FILE, batch(), encoded({f"fields not read: f{number}": 1}))
    assert len(progress.notes) == 501
    assert progress.notes["fields not read: others"] == 500


def test_a_line_of_progress_counts_the_workers_and_nodes_of_a_cluster(capsys, monkeypatch):
    monkeypatch.setattr(tokenizing, "_SECONDS_BETWEEN_LINES", 0)
    with progress_line() as (show, show_workers):
        show(1, 4, Progress())
        show_workers(WorkerCount(ready=2, wanted=3, nodes=1))
        show(2, 4, Progress())
        show_workers(WorkerCount(ready=3, wanted=3, nodes=2))
        show(3, 4, Progress())
    alone, fewer, all_of_them = capsys.readouterr().err.splitlines()
    assert "node" not in alone
    assert fewer.startswith("tokenizing 50.0%: 0 records, ")
    assert ", 2 of 3 workers on 1 node, " in fewer
    assert ", 3 workers on 2 nodes, " in all_of_them


def test_a_search_of_many_inputs_says_how_far_it_is_in_a_few_lines(capsys):
    for done in range(1, 5001):
        show_search(done, 5000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "inspected 500 of 5,000 inputs"
    assert lines[-1] == "inspected 5,000 of 5,000 inputs"
    show_search(99, 99)
    assert capsys.readouterr().err == ""


def test_a_limit_that_may_take_more_memory_than_there_is_is_said(capsys, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 4_000_000, "SC_PAGE_SIZE": 4096}.get)
    warn_of_memory(1 << 24)
    assert capsys.readouterr().err == ""
    warn_of_memory(400_000_000)
    assert capsys.readouterr().err == (
        "warning: a record of --max-record-bytes 400,000,000 may need 42 GB of memory, but this "
        "machine has 16 GB\n"
    )
