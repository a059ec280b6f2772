from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from megatron_packing.prepare.batches import Position, RecordBatch
from megatron_packing.prepare.encoder import EncodedBatch
from megatron_packing.prepare.unfinished import Progress
from megatron_packing.report.tokenizing import print_result


def encoded(notes):
    one = np.ones(1, np.uint8)
    return EncodedBatch(one, one, np.ones(1, np.int32), 1, Counter(openai=1), 0, [], Counter(notes))


def batch():
    return RecordBatch(0, 1, [], 1, Position(), 0)


def test_notes_are_printed_one_line_a_phrase_the_most_frequent_first(capsys):
    progress = Progress()
    progress.add(batch(), encoded({"a phrase alone": 1, "fields not read: id": 1200}))
    progress.add(batch(), encoded({"fields not read: [/b]": 2000, "fields not read: id": 1}))
    print_result(Path("out"), progress)
    printed = " ".join(capsys.readouterr().out.split())
    assert "fields not read: [/b] (2,000 documents), id (1,201 documents) a phrase" in printed
    assert "a phrase alone: 1 document 2 tokens" in printed


def test_a_few_of_many_details_are_printed(capsys):
    progress = Progress()
    progress.add(batch(), encoded({f"fields not read: f{n:02}": 1 for n in range(25)}))
    print_result(Path("out"), progress)
    printed = " ".join(capsys.readouterr().out.split())
    assert "f18 (1 document), f19 (1 document), and 5 more" in printed
    assert "f20" not in printed


def test_notes_without_bound_are_counted_together():
    progress = Progress()
    for number in range(1000):
        progress.add(batch(), encoded({f"fields not read: f{number}": 1}))
    assert len(progress.notes) == 501
    assert progress.notes["fields not read: others"] == 500
