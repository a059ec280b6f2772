# SPDX-License-Identifier: Apache-2.0
"""Packed files of NeMo and Megatron-Bridge become corpora again."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from _codecs import encode as codecs_encode
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_packing.cli import main
from megatron_packing.corpus.corpus import Corpus, corpus_record_path
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.interchange.export import EXPORT_FORMATS, export_packs
from megatron_packing.interchange.import_packed import import_packed
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus

ROW, END = 64, 300
# What Bridge's and NeMo's own data have: two sequences, masks moved to the token before.
PACKED = [
    {
        "input_ids": [11, 12, 13, 14, 2, 21, 22, 23, 2],
        "loss_mask": [0, 1, 1, 1, 0, 1, 1, 1, 0],
        "seq_start_id": [0, 5],
    }
]


def save_npy(path: Path, rows: object) -> Path:
    np.save(path, rows, allow_pickle=True)
    return path


def save_parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def contents(corpus: Corpus) -> list[tuple[list[int], list[int]]]:
    return [(corpus.tokens(i).tolist(), corpus.loss_mask(i).tolist()) for i in range(len(corpus))]


@pytest.mark.parametrize("save", [save_npy, save_parquet])
def test_sequences_become_documents_and_masks_move_to_their_own_tokens(tmp_path, save):
    file = save(tmp_path / f"packed.{'npy' if save is save_npy else 'parquet'}", PACKED)
    import_packed([file], tmp_path / "corpus")
    assert contents(Corpus(tmp_path / "corpus")) == [
        ([11, 12, 13, 14, 2], [0, 0, 1, 1, 1]),
        ([21, 22, 23, 2], [0, 1, 1, 1]),
    ]


@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
@pytest.mark.parametrize("alignment", [1, 8])
def test_what_was_exported_comes_back_document_by_document(tmp_path, file_format, alignment):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=ROW))
    settings = PlanSettings(strategy="optimal", sequence_length=ROW, alignment=alignment)
    index = build_pack_index(corpus, settings, tmp_path / "packs")
    output = tmp_path / "out"
    export_packs(index, corpus, output, file_format=file_format, end_token=END)
    figures = import_packed([output], tmp_path / "back", padding_token=END)
    back = Corpus(tmp_path / "back")
    order = [
        document
        for pack in range(len(index))
        for document in index.document_ids[
            index.pack_offsets[pack] : index.pack_offsets[pack + 1]
        ].tolist()
    ]
    assert figures.num_documents == len(order) == 100
    for document, original in enumerate(order):
        count = len(corpus.tokens(original))
        tokens, mask = back.tokens(document), back.loss_mask(document)
        assert np.array_equal(tokens[:count], corpus.tokens(original))
        assert np.array_equal(mask[1:count], corpus.loss_mask(original)[1:])  # 0 is no label
        # Of pads one may stay, untrained: it could be the text's own end.
        assert tokens[count:].tolist() in ([], [END])
        assert not mask[count:].any()


def test_types_that_numpy_and_old_nemo_save_are_read_alike(tmp_path):
    expected = None
    for number, change in enumerate(
        (
            list,
            lambda value: np.asarray(value),
            lambda value: [bool(x) if x in (0, 1) else x for x in value],
            lambda value: [np.int64(x) for x in value],
        )
    ):
        rows = [
            {
                **PACKED[0],
                "input_ids": np.asarray(PACKED[0]["input_ids"])
                if number == 1
                else PACKED[0]["input_ids"],
                "loss_mask": change(PACKED[0]["loss_mask"]),
            }
        ]
        file = save_npy(tmp_path / f"{number}.npy", rows)
        import_packed([file], tmp_path / f"corpus{number}")
        found = contents(Corpus(tmp_path / f"corpus{number}"))
        expected = expected or found
        assert found == expected


def test_folders_and_several_files_are_read_in_order(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.parquet", "a.parquet"):
        rows = [{**PACKED[0], "input_ids": [ord(name[0])] * 9}]
        save_parquet(folder / name, rows)
    file = save_npy(tmp_path / "last.npy", PACKED)
    words = ["import", folder, file, "--output-prefix", tmp_path / "corpus"]
    assert main([*map(str, words)]) == 0
    corpus = Corpus(tmp_path / "corpus")
    assert [int(corpus.tokens(i)[0]) for i in range(6)] == [97, 97, 98, 98, 11, 21]
    assert "3 packs of 3 files = 6 documents" in capsys.readouterr().out
    record = json.loads((tmp_path / "corpus_corpus.json").read_text())
    assert [Path(entry["name"]).name for entry in record["imported_from"]] == [
        "a.parquet",
        "b.parquet",
        "last.npy",
    ]


class Program:
    """Runs when it is unpickled by a loader that trusts files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class OwnState:
    """Sets the state of numpy's object dtype, so that numpy would take bytes for pointers."""

    def __init__(self, *made) -> None:
        self.made = made

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "made",
    [
        (np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)),
        (np.dtype, ("V8", False, True)),
        (np.ndarray, ((10**9,), "u1", b"12345678", 0, (0,))),
        (np._core.multiarray.scalar, (np.dtype("O"), b"12345678")),
        (
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (2,), np.dtype("O"), False, b"1234567812345678"),
        ),
        (
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (10**12,), np.dtype("i8"), False, b"12345678"),
        ),
        (codecs_encode, ("text", "rot13")),
    ],
)
def test_a_pickle_cannot_reach_the_memory_of_numpy(tmp_path, made):
    """Each of these names nothing but numpy's arrays, dtypes and numbers."""
    file = tmp_path / "packed.npy"
    row = {**PACKED[0], "loss_mask": OwnState(*made)}
    with file.open("wb") as opened:
        header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
        np.lib.format.write_array_header_1_0(opened, header)
        rows = OwnState(
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (1,), np.dtype("O"), False, [row]),
        )
        pickle.dump(rows, opened, protocol=2)
    with pytest.raises(InputError):
        import_packed([file], tmp_path / "corpus")
    assert not list(tmp_path.glob("*corpus*"))


def test_a_pickle_that_numbers_an_object_four_billion_takes_no_memory(tmp_path):
    """C's unpickler makes a table of as many places, which it fills."""
    file = save_npy(tmp_path / "packed.npy", PACKED)
    header = file.read_bytes().partition(b"\n")[0] + b"\n"
    put = pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1)
    pickled = pickle.dumps(np.array(PACKED, object), protocol=2)
    file.write_bytes(header + pickled[:-1] + put + pickle.STOP)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InputError, match=r"packed.npy cannot be read .*MemoryError"):
        import_packed([file], tmp_path / "corpus")
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_programs_in_a_pickle_are_not_run(tmp_path):
    for number, rows in enumerate(
        ([Program(tmp_path / "ran")], [{"input_ids": Program(tmp_path / "ran")}])
    ):
        file = save_npy(tmp_path / f"{number}.npy", np.array(rows, object))
        with pytest.raises(InputError, match=r"names posix\.mkdir, which packed sequences do not"):
            import_packed([file], tmp_path / "corpus")
    raw = tmp_path / "raw.npy"
    raw.write_bytes(pickle.dumps(PACKED))
    with pytest.raises(InputError, match="cannot be read as a file of packed sequences"):
        import_packed([raw], tmp_path / "corpus")
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("*corpus*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_mask": [0, 1]}, "row 1 has 9 input_ids but 2 loss_mask values"),
        ({"seq_start_id": [1, 5]}, "row 1 has seq_start_id .* which does not begin with 0"),
        ({"seq_start_id": [0, 9]}, "row 1 has a seq_start_id that does not increase"),
        ({"seq_start_id": [0, 5, 5]}, "row 1 has a seq_start_id that does not increase"),
        ({"input_ids": [-1] * 9}, "row 1 has token -1"),
        ({"loss_mask": [7] * 9}, "row 1 has 7 in loss_mask"),
        ({"input_ids": []}, "row 1 has no tokens"),
        ({"input_ids": [11.7] * 9}, "row 1 holds |a column input_ids of type list<.*: double>"),
        ({"input_ids": None}, "row 1 (holds|has) null"),
        ({"input_ids": [None] * 9}, "row 1 (holds|has) "),
        ({"seq_start_id": [0, 5, 2]}, "row 1 has a seq_start_id that does not increase"),
    ],
)
@pytest.mark.parametrize("save", [save_npy, save_parquet])
def test_a_bad_row_is_named_and_nothing_is_left(tmp_path, change, message, save):
    suffix = "npy" if save is save_npy else "parquet"
    file = save(tmp_path / f"packed.{suffix}", [PACKED[0], {**PACKED[0], **change}])
    with pytest.raises(InputError, match=message):
        import_packed([file], tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_files_of_another_kind_are_named(tmp_path):
    written = write_corpus(tmp_path / "written", [5, 6])
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    index = build_pack_index(written, settings, tmp_path / "packs")
    texts = save_npy(tmp_path / "texts.npy", [{**PACKED[0], "loss_mask": ["1"] * 9}])
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("training_64.npy", "validation_64.npy"):
        save_npy(mixed / name, PACKED)
    numbers = save_npy(tmp_path / "numbers.npy", np.arange(5))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["a"]}), other)
    cut = save_npy(tmp_path / "cut.npy", PACKED)
    cut.write_bytes(cut.read_bytes()[:-40])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1")
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = save_npy(tmp_path / "nothing.npy", np.array([], object))
    strange = save_npy(tmp_path / "strange.npy", np.array([{"a": 1}, {"b": 2}], object))
    for path, message in (
        (texts, "row 0 holds .* instead of a list of integers"),
        (
            mixed,
            r"the 2 files to import belong to several splits: training \(.*training_64.npy\) and v",
        ),
        (numbers, "holds numbers of type int64, not packed rows"),
        (other, "has no column input_ids, loss_mask, seq_start_id"),
        (cut, "cut.npy cannot be read"),
        (damaged, "cannot be read as packed Parquet"),
        (empty, "holds no packed files"),
        (nothing, "holds no packs"),
        (strange, "row 0 is not a dict with input_ids"),
        (tmp_path / "absent.npy", "does not exist"),
        (index.path, "is already a pack index, which needs no import"),
        (Path(__file__), "ends in .py"),
    ):
        with pytest.raises(InputError, match=message):
            import_packed([path], tmp_path / "corpus")
    assert not list(tmp_path.glob("*corpus*"))


def test_an_existing_corpus_is_left_alone(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 6], with_loss_mask=False)
    before = corpus.fingerprint
    file = save_npy(tmp_path / "packed.npy", PACKED)
    with pytest.raises(InputError, match="exists already"):
        import_packed([file], tmp_path / "corpus")
    assert Corpus(tmp_path / "corpus").fingerprint == before


@pytest.mark.parametrize(
    "names",
    [
        ("packed_train_4096.parquet", "packed_validation_4096.parquet"),
        ("training_64.npy", "x-VAL.npy"),
        ("packedTrain.npy", "packedTest.npy"),
        ("train/0.npy", "test/0.npy"),
        ("all_train_dev.npy", "more.npy"),
    ],
)
def test_splits_are_not_mixed(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (save_npy if name.endswith("npy") else save_parquet)(tmp_path / name, PACKED)
    files = [tmp_path / name for name in names]
    given = [files] if "/" in names[0] else [files, [tmp_path]]
    for paths in given:
        with pytest.raises(InputError, match=r"belong to several splits: .*--mix-splits"):
            import_packed(paths, tmp_path / "corpus")
        figures = import_packed(paths, tmp_path / f"corpus{len(paths)}", mix_splits=True)
        assert figures.num_packs == 2
    assert not list(tmp_path.glob("corpus.*"))


@pytest.mark.parametrize(
    "names",
    [("train_0.npy", "train_1.npy", "rest.npy"), ("latest.npy", "trained.npy", "devil.npy")],
)
def test_words_that_are_no_splits_are_no_mixture(tmp_path, names):
    folder = tmp_path / "test"
    folder.mkdir()
    for name in names:
        save_npy(folder / name, PACKED)
    assert import_packed([folder], tmp_path / "corpus").num_packs == 3


def test_files_in_folders_below_are_named(tmp_path, capsys):
    folder = tmp_path / "given"
    (folder / "below" / "deep").mkdir(parents=True)
    save_npy(folder / "below" / "deep" / "a.npy", PACKED)
    assert main(["import", str(folder), "--output-prefix", str(tmp_path / "x")]) == 1
    assert f"holds no packed files, but {folder}/below/deep does" in capsys.readouterr().err
    save_npy(folder / "b.npy", PACKED)
    assert main(["import", str(folder), "--output-prefix", str(tmp_path / "x")]) == 0
    assert f"note: the packed files in {folder}/below/deep are left out" in capsys.readouterr().out


def test_a_file_that_is_given_twice_is_refused(tmp_path):
    file = save_npy(tmp_path / "a.npy", PACKED)
    (tmp_path / "link.npy").symlink_to(file)
    for paths in ([file, file], [tmp_path], [file, tmp_path / "link.npy"]):
        with pytest.raises(InputError, match="is given twice"):
            import_packed(paths, tmp_path / "corpus")


@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
def test_an_export_that_was_changed_is_refused(tmp_path, file_format):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(20, longest=ROW))
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    index = build_pack_index(corpus, settings, tmp_path / "packs")
    file, _ = export_packs(index, corpus, tmp_path / "out", file_format=file_format, end_token=END)
    content = bytearray(file.read_bytes())
    at = content.rindex(b"loss_mask") - 40 if file.suffix == ".npy" else len(content) // 3
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"SHA256SUMS|cannot be read"):
        import_packed([file], tmp_path / "back")
    assert not list(tmp_path.glob("*back*"))


def test_columns_that_are_not_one_list_of_integers_are_refused(tmp_path):
    columns = {name: pa.array([values]) for name, values in PACKED[0].items()}
    twice = pa.table([*columns.values(), columns["loss_mask"]], names=[*columns, "loss_mask"])
    texts = pa.table({**columns, "loss_mask": pa.array(["1"])})
    for number, (table, message) in enumerate(
        ((twice, "has 2 columns named"), (texts, "column loss_mask of type string, not lists"))
    ):
        pq.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(InputError, match=message):
            import_packed([tmp_path / f"{number}.parquet"], tmp_path / "corpus")


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint32(), pa.int64()])
def test_starts_that_fall_are_refused_in_every_type(tmp_path, kind):
    """Differences of unsigned numbers are never negative."""
    columns = {name: pa.array([values], pa.list_(kind)) for name, values in PACKED[0].items()}
    columns["seq_start_id"] = pa.array([[0, 5, 3]], pa.list_(kind))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="seq_start_id that does not increase"):
        import_packed([tmp_path / "a.parquet"], tmp_path / "corpus")


RECORD = {
    "tokenizer": "some/tokenizer",
    "tokenizer_sha256": "ab" * 32,
    "vocabulary_size": 512,
    "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
}


def exported(folder, name, file_format, record=None, seed=0):
    """An export of a corpus of its own, whose record says ``record`` of its tokenizer."""
    prefix = folder / f"{name}_corpus"
    write_corpus(prefix, chat_like_lengths(20, longest=ROW), seed=seed)
    if record is not None:
        corpus_record_path(prefix).write_text(json.dumps(record))
    corpus = Corpus(prefix)
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    index = build_pack_index(corpus, settings, folder / f"{name}_packs")
    export_packs(index, corpus, folder / name, file_format=file_format, end_token=END)
    return folder / name


@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
def test_the_tokenizer_of_an_export_comes_back(tmp_path, file_format):
    folder = exported(tmp_path, "out", file_format, RECORD)
    notes = []
    import_packed([folder], tmp_path / "back", note=notes.append)
    record = Corpus(tmp_path / "back").record
    assert {name: getattr(record, name) for name in RECORD} == RECORD
    assert notes == []


@pytest.mark.parametrize("file_format", EXPORT_FORMATS)
def test_a_tokenizer_that_is_not_recorded_is_said_in_one_line(tmp_path, capsys, file_format):
    folder = exported(tmp_path, "out", file_format)
    assert main(["import", str(folder), "--output-prefix", str(tmp_path / "back")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "note:" in line]
    assert line.startswith(f"note: tokenizer not recorded, because {folder}/packs")
    assert Corpus(tmp_path / "back").record.tokenizer_sha256 is None


def test_a_tokenizer_in_the_metadata_of_another_file_is_not_taken(tmp_path):
    folder = exported(tmp_path, "out", "nemo-npy", RECORD)
    (folder / "packs.npy").rename(folder / "other.npy")
    import_packed([folder], tmp_path / "back")
    assert Corpus(tmp_path / "back").record.tokenizer_sha256 is None
    (folder / "other.npy").rename(folder / "packs.npy")
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace("abab", "cdcd"))
    with pytest.raises(InputError, match=r"metadata\.jsonl was changed or damaged"):
        import_packed([folder], tmp_path / "again")
    for strange in ("", "[", "{}", "[1]", '[{"dataset_max_seqlen": 3}]', "\xff"):
        (folder / "metadata.jsonl").write_text(strange, encoding="latin-1")
        prefix = tmp_path / f"strange{len(list(tmp_path.iterdir()))}"
        import_packed([folder], prefix)
        assert Corpus(prefix).record.tokenizer_sha256 is None


def test_files_of_different_tokenizers_are_refused_unless_that_is_wanted(tmp_path, capsys):
    first = exported(tmp_path, "first", "nemo-npy", RECORD)
    other = {**RECORD, "tokenizer_sha256": "cd" * 32}
    second = exported(tmp_path, "second", "bridge-parquet", other, seed=1)
    words = ["import", str(first), str(second), "--output-prefix", str(tmp_path / "back")]
    assert main(words) == 1
    assert "their token ids mean different texts" in capsys.readouterr().err
    assert not list(tmp_path.glob("back*"))
    assert main([*words, "--allow-other-tokenizer"]) == 0
    assert "because the files have different ones" in capsys.readouterr().out
    assert Corpus(tmp_path / "back").record.tokenizer_sha256 is None


def test_a_damaged_tokenizer_in_a_parquet_file_is_refused(tmp_path):
    folder = exported(tmp_path, "out", "bridge-parquet", {**RECORD, "vocabulary_size": 7})
    table = pq.read_table(folder / "packs.idx.parquet")
    key = b"megatron_packing_tokenizer"
    damaged = json.dumps({**json.loads(table.schema.metadata[key]), "vocabulary_size": -1})
    file = tmp_path / "damaged.parquet"
    pq.write_table(table.replace_schema_metadata({key: damaged}), file)
    with pytest.raises(
        InputError, match=r"damaged\.parquet has -1 for vocabulary_size, .*export it"
    ):
        import_packed([file], tmp_path / "back")


def test_the_same_packs_in_two_files_are_said(tmp_path, capsys):
    first = exported(tmp_path, "first", "nemo-npy", RECORD)
    second = exported(tmp_path, "second", "bridge-parquet", RECORD)
    third = exported(tmp_path, "third", "bridge-parquet", RECORD, seed=1)
    words = ["import", str(first), str(second), str(third)]
    assert main([*words, "--output-prefix", str(tmp_path / "back")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "note:" in line]
    assert line.startswith(f"note: {second}/packs.idx.parquet holds the same documents as {first}/")
    assert len(Corpus(tmp_path / "back")) == 60


def test_files_without_packs_are_not_said_to_be_the_same(tmp_path):
    full = save_parquet(tmp_path / "full.parquet", PACKED)
    for name in ("a", "b"):
        pq.write_table(pq.read_table(full).slice(0, 0), tmp_path / f"{name}.parquet")
    notes = []
    import_packed([tmp_path], tmp_path / "back", note=notes.append)
    assert [note for note in notes if "the same documents" in note] == []
