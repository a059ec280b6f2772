# SPDX-License-Identifier: Apache-2.0
"""What is exported, read back by the classes of Megatron-Bridge and NeMo themselves."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("megatron.core")
pytest.importorskip("pyarrow")

from megatron_packing.cli import main
from megatron_packing.corpus.corpus import Corpus, corpus_record_path, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.interchange.export import EXPORT_FORMATS, METADATA, export_packs
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows
from tests.bridge.conftest import BRIDGE, needs_bridge
from tests.conftest import chat_like_lengths, write_corpus
from tests.ranks import run_ranks

ROW, END = 96, 3
TOKENIZER = {"tokenizer_sha256": "ab" * 32}
SCRIPT = Path(__file__).with_name("read_exported.py")


def conversations(prefix: Path, count: int = 80, inner_ends: bool = False) -> Corpus:
    """Documents that end with the end token; perhaps with more of them in the middle."""
    random = np.random.default_rng(0)
    lengths = chat_like_lengths(count, longest=2 * ROW).astype(np.int64)
    values = random.integers(0 if inner_ends else END + 1, 40, lengths.sum())
    values[np.cumsum(lengths) - 1] = END
    with IndexedDatasetWriter(prefix, np.dtype(np.uint16)) as tokens:
        tokens.add(values, lengths)
    with IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as masks:
        masks.add(random.integers(0, 2, lengths.sum()), lengths)
    # An export says which tokenizer it was made with, where its readers must pass over it.
    corpus_record_path(prefix).write_text(json.dumps(TOKENIZER))
    return Corpus(prefix)


def pack(corpus: Corpus, folder: Path, **changes):
    settings = {"strategy": "optimal", "sequence_length": ROW, "overlong": "split", **changes}
    return build_pack_index(corpus, PlanSettings(**settings), folder / "packs")


def read(package: str, files: dict[Path, int]) -> list[list[dict[str, np.ndarray]]]:
    """What the class's collate_fn makes of each pack of each file, aligned to a multiple."""
    words = [package, END, ROW, *(f"{file}:{multiple}" for file, multiple in files.items())]
    run_ranks(SCRIPT, *words)
    found = []
    for file in files:
        packs: dict[int, dict[str, np.ndarray]] = {}
        with np.load(f"{file}.npz") as arrays:
            for key in arrays:
                number, name = key.split()
                packs.setdefault(int(number), {})[name] = arrays[key]
        found.append([packs[number] for number in range(len(packs))])
    return found


def boundaries(found: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """Where segments end in the row, and their lengths without pads where the class says so."""
    if "cu_seqlens" in found:  # NeMo, and Bridge before 0.6: cut off at the first -1
        physical, logical = found["cu_seqlens"], found.get("cu_seqlens_unpadded")
        physical = physical[: int(found["cu_seqlens_argmin"][0])]
        if logical is not None:
            logical = logical[: int(found["cu_seqlens_unpadded_argmin"][0])]
    else:
        logical = found["cu_seqlens_q"]
        physical = found.get("cu_seqlens_q_padded", logical)
    return np.unique(physical).tolist(), [] if logical is None else np.diff(logical).tolist()


@needs_bridge
@pytest.mark.parametrize(
    ("package", "file_format"),
    [
        pytest.param(
            "bridge",
            "bridge-parquet",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(BRIDGE < (0, 4), reason="Bridge reads Parquet from 0.4 on"),
            ],
        ),
        pytest.param("bridge", "nemo-npy", marks=pytest.mark.slow),
        ("nemo", "nemo-npy"),
    ],
)
def test_the_readers_find_the_tokens_labels_masks_and_boundaries(tmp_path, package, file_format):
    cases, files = [], {}
    for alignment, inner_ends in ((1, False), (8, False), (1, True)):
        folder = tmp_path / f"{alignment} {inner_ends}"
        folder.mkdir()
        corpus = conversations(folder / "corpus", inner_ends=inner_ends)
        index = pack(corpus, folder, alignment=alignment)
        file, figures = export_packs(
            index, corpus, folder / "exported", file_format=file_format, end_token=END
        )
        assert (figures.num_after_end > 0) == (figures.num_with_inner_end > 0) == inner_ends
        cases.append((index, corpus, figures))
        files[file] = alignment
    for case, found in zip(cases, read(package, files), strict=True):
        compare(package, *case, found)


def compare(package, index, corpus, figures, found):
    rows = PackedRows(index=index, corpus=corpus, seed=0, new_order_each_epoch=False)
    assert len(found) == len(index) == figures.num_packs
    alignment, dropped = index.plan.alignment, 0
    drops_ends = package == "bridge" and BRIDGE < (0, 7)
    for pack_number, theirs in enumerate(found):
        ours, segments = rows.row(pack_number), rows.segments(pack_number)
        real = ~rows.place(segments).padding_mask()
        if package == "bridge" and BRIDGE >= (0, 7):  # what PackedRowDataset gives there
            assert np.array_equal(theirs["padding_mask"], ~real)
        for name in ("tokens", "labels", "position_ids"):
            assert np.array_equal(theirs[name][real], ours[name][real])
        after_end = (ours["loss_mask"] != 0) & (ours["tokens"] == END)
        if drops_ends:  # Bridge before 0.7 takes every end token for padding
            dropped += int(after_end.sum())
            assert np.array_equal(theirs["loss_mask"], ours["loss_mask"] * ~after_end)
        else:
            assert np.array_equal(theirs["loss_mask"], ours["loss_mask"])
        ends, lengths = boundaries(theirs)
        units = -(-segments.lengths // alignment) * alignment
        assert ends == np.unique([0, *np.cumsum(units), ROW]).tolist()
        if package == "bridge" and alignment > 1:
            assert lengths[: len(units)] == segments.lengths.tolist()
            assert sum(lengths[len(units) :]) == 0
    if drops_ends:
        assert dropped == figures.num_after_end


@needs_bridge
def test_metadata_are_those_that_bridge_computes(tmp_path):
    """By the definitions of create_packing_strategy, on lengths with their pads."""
    corpus = conversations(tmp_path / "corpus")
    index = pack(corpus, tmp_path, alignment=4)
    export_packs(index, corpus, tmp_path / "out", file_format="nemo-npy", end_token=END)
    (found,) = json.loads((tmp_path / "out" / METADATA).read_text())
    packs = [
        [-(-length // 4) * 4 for _, _, length in index.segments(i, corpus.num_tokens)]
        for i in range(len(index))
    ]
    sums = [sum(lengths) for lengths in packs]
    assert found.pop("megatron_packing_tokenizer") == {"file": "packs.npy", **TOKENIZER}
    assert found == {
        "dataset_max_seqlen": max(map(max, packs)),
        "max_samples_per_bin": max(map(len, packs)),
        "packing_factor": round(sum(map(len, packs)) / len(packs), 2),
        "packing_efficiency": round(sum(sums) / len(sums) / ROW * 100, 2),
        "pack_size": ROW,
        "min_packed_seqlen": min(sums),
    }


@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
def test_a_pack_without_documents_becomes_padding(tmp_path, file_format):
    corpus = conversations(tmp_path / "corpus", count=3)
    index = pack(corpus, tmp_path, min_packs=20)
    assert (np.diff(index.pack_offsets) == 0).any()
    file, figures = export_packs(
        index, corpus, tmp_path / "out", file_format=file_format, end_token=END
    )
    assert figures.num_packs == 20
    assert main(["import", str(file), "--output-prefix", str(tmp_path / "back")]) == 0
    assert Corpus(tmp_path / "back").num_tokens.min() == 2


def test_the_npy_file_is_what_numpy_saves(tmp_path):
    corpus = conversations(tmp_path / "corpus")
    index = pack(corpus, tmp_path)
    file, _ = export_packs(index, corpus, tmp_path / "out", file_format="nemo-npy", end_token=END)
    loaded = np.load(file, allow_pickle=True)
    np.save(tmp_path / "saved.npy", list(loaded), allow_pickle=True)
    saved = np.load(tmp_path / "saved.npy", allow_pickle=True)
    assert loaded.shape == saved.shape == (len(index),)
    assert loaded.tolist() == saved.tolist()
    assert all(isinstance(row[name], list) for row in loaded for name in row)


def test_what_stands_in_the_way_is_left_and_nothing_half_written_remains(tmp_path):
    corpus = conversations(tmp_path / "corpus")
    index = pack(corpus, tmp_path)
    output = tmp_path / "out"
    settings = {"file_format": "bridge-parquet", "end_token": END}

    def fail(packs: int) -> None:
        if packs == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_packs(index, corpus, output, progress=fail, **settings)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == []
    output.mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_packs(index, corpus, output, **settings)
    with pytest.raises(InputError, match="end token is -1"):
        export_packs(index, corpus, tmp_path / "new", file_format="nemo-npy", end_token=-1)


def specs_of(file: Path) -> str:
    metadata = file.with_name(METADATA)
    return (
        f"PackedSequenceSpecs(packed_train_data_path='{file}', packed_metadata_path='{metadata}', "
        f"packed_sequence_size={ROW}"
    )


@pytest.mark.parametrize("alignment", [1, 4])
def test_nemo_itself_takes_the_specs_that_are_printed(tmp_path, capsys, alignment):
    """NeMo 2.x has no pad_seq_to_mult, so naming it raised a TypeError."""
    source = importlib.util.find_spec("nemo")
    if source is None or source.origin is None:
        pytest.skip("NeMo is not installed")
    module = Path(source.origin).with_name("collections") / "llm/gpt/data/packed_sequence.py"
    (definition,) = [
        node
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "PackedSequenceSpecs"
    ]
    names = {"Path": Path, "dataclass": dataclass, "__name__": __name__}
    exec(ast.unparse(definition), names)
    pack(conversations(tmp_path / "corpus"), tmp_path, alignment=alignment)
    words = ["export", tmp_path / "packs", "--format", "nemo-npy", "--end-token", END]
    assert main([*map(str, words), "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (printed,) = [line for line in lines if line.startswith("NeMo 2.x")]
    assert ("pad_seq_to_mult" in "".join(lines)) == (alignment > 1)
    specs = eval(printed.partition(": ")[2], names)
    assert (specs.packed_sequence_size, specs.pad_cu_seqlens) == (ROW, False)
    assert specs.packed_train_data_path == tmp_path / "out" / "packs.npy"
    if alignment == 1:
        assert printed.startswith("NeMo 2.x or Megatron-Bridge 0.3: ")


def test_the_command_prints_what_bridge_is_to_be_given(tmp_path, capsys):
    corpus = conversations(tmp_path / "corpus", inner_ends=True)
    pack(corpus, tmp_path, alignment=4)
    words = ["export", tmp_path / "packs", "--format", "nemo-npy", "--end-token", END]
    assert main([*map(str, words), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"NeMo 2.x: {specs_of(tmp_path / 'out' / 'packs.npy')})\n" in printed
    assert f"Bridge 0.3: {specs_of(tmp_path / 'out' / 'packs.npy')}, pad_seq_to_mult=4)" in printed
    assert "trained labels come right after token 3" in printed
    assert "where NeMo 2.x ends attention" in printed


@pytest.mark.slow
@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
def test_memory_does_not_grow_with_the_packs(tmp_path, file_format):
    """Private memory: pages of the mapped corpus come and go as the system likes."""
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from megatron_packing.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(re.search(r'RssAnon:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    # The Parquet writer holds the offsets of groups of rows, whose number grows up to 80,000 packs.
    fewest = 90_000 if file_format == "bridge-parquet" else 10_000
    private = []
    for count in (fewest, fewest + 30_000):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        corpus = write_corpus(folder / "corpus", [5] * count)
        settings = PlanSettings(strategy="padding", sequence_length=4)
        build_pack_index(corpus, settings, folder / "packs")
        words = ["export", folder / "packs", "--format", file_format, "--end-token", END]
        process = subprocess.run(
            [sys.executable, "-c", program, *map(str, words), "--output", folder / "out"],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        private.append(int(process.stdout.splitlines()[-1]) * 1024)
    assert private[1] - private[0] < 7e6


def test_an_end_token_that_no_document_holds_is_asked_about(tmp_path, capsys):
    corpus = conversations(tmp_path / "corpus")
    pack(corpus, tmp_path)
    words = ["export", tmp_path / "packs", "--format", "nemo-npy", "--end-token", 77]
    assert main([*map(str, words), "--output", str(tmp_path / "out")]) == 0
    assert "no document holds token 77: is it the tokenizer's eos_id?" in capsys.readouterr().out
