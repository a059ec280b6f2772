# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
import re
import resource
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from megatron_packing import Corpus, PackIndex
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.index import pack_index
from megatron_packing.index.array_file import array_path, open_array
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.verify import verify_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus
from tests.index.manifest_file import edit_manifest, set_field


def settings(**changes):
    defaults = {
        "strategy": "first_fit_decreasing",
        "sequence_length": 128,
        "overlong": "error",
        "packs_multiple_of": 1,
        "seed": 0,
    }
    return PlanSettings(**{**defaults, **changes})


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(300, longest=129))


@pytest.fixture
def index(corpus, tmp_path):
    return build_pack_index(corpus, settings(), tmp_path / "index")


def is_mapped(array) -> bool:
    """Whether the bytes of an array are in a file that this process has mapped."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
        if first <= address < last:
            return line.endswith("/document_ids.npy")
    return False


def test_what_was_written_is_opened_memory_mapped(index):
    again = PackIndex.open(index.path)
    assert again.plan == settings()
    assert again.figures.num_packs == len(again)
    assert is_mapped(again.document_ids)
    assert again.segment_starts is None


def test_the_digest_is_that_of_the_packs(corpus, index, tmp_path):
    again = build_pack_index(corpus, settings(), tmp_path / "again")
    assert again.digest == index.digest == PackIndex.open(index.path).digest
    assert re.fullmatch("[0-9a-f]{64}", index.digest)
    others = [settings(seed=1), settings(strategy="greedy"), settings(sequence_length=129)]
    digests = {
        build_pack_index(corpus, plan, tmp_path / f"{number}").digest
        for number, plan in enumerate(others)
    }
    assert len({index.digest, *digests}) == 4


def test_an_index_without_split_documents_has_no_segment_arrays(index):
    assert sorted(path.name for path in index.path.iterdir()) == [
        "document_ids.npy",
        "length_offsets.npy",
        "manifest.json",
        "pack_offsets.npy",
        "places_by_length.npy",
    ]


@pytest.mark.parametrize("changes", [{}, {"strategy": "random"}, {"alignment": 10}])
def test_epochs_have_the_same_segments_and_geometry_but_other_neighbors(corpus, tmp_path, changes):
    plan = settings(sequence_length=100, overlong="split", **changes)
    index = build_pack_index(corpus, plan, tmp_path / "epochs")

    def packs(epoch, seed=3):
        return [
            list(index.segments(pack, corpus.num_tokens, epoch=epoch, seed=seed))
            for pack in range(len(index))
        ]

    def aligned(rows):
        return [[-(-n // plan.alignment) for _, _, n in row] for row in rows]

    planned, second, third = packs(0), packs(1), packs(2)
    assert aligned(planned) == aligned(second) == aligned(third)
    assert sorted(chain(*planned)) == sorted(chain(*second)) == sorted(chain(*third))
    assert len({str(rows) for rows in (planned, second, third, packs(1, seed=4))}) == 4
    assert second == packs(1)


def test_the_same_corpus_and_plan_give_the_same_bytes(corpus, index, tmp_path):
    again = build_pack_index(corpus, settings(), tmp_path / "again")
    for path in index.path.iterdir():
        assert path.read_bytes() == (again.path / path.name).read_bytes()


def test_segments_are_slices_of_documents(corpus, tmp_path):
    index = build_pack_index(
        corpus, settings(sequence_length=50, overlong="split"), tmp_path / "split"
    )
    covered = np.zeros(len(corpus), np.int64)
    for pack in range(len(index)):
        segments = index.segments(pack, corpus.num_tokens)
        assert segments.lengths.sum() <= 50
        np.add.at(covered, segments.document_ids, segments.lengths)
    assert np.array_equal(covered, np.asarray(corpus.num_tokens) - 1)


def test_documents_without_a_position_are_counted_and_left_out(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 1, 7, 0, 9])
    index = build_pack_index(corpus, settings(), tmp_path / "index")
    assert sorted(index.document_ids) == [0, 2, 4]
    assert index.figures.num_documents_empty == 2
    verify_pack_index(index, corpus.num_tokens)


def test_a_range_of_documents_is_packed(corpus, tmp_path):
    index = build_pack_index(corpus, settings(), tmp_path / "part", documents=range(100, 200))
    assert sorted(index.document_ids) == list(range(100, 200))
    verify_pack_index(index, corpus.num_tokens)


def test_a_copy_of_an_index_in_another_process_opens_the_files_anew(index):
    copy = pickle.loads(pickle.dumps(index))
    assert is_mapped(copy.document_ids)
    assert np.array_equal(copy.document_ids, index.document_ids)
    assert len(pickle.dumps(index)) < 1000


def test_a_copy_of_the_corpus_is_accepted_and_another_corpus_is_not(corpus, index, tmp_path):
    copies = tmp_path / "elsewhere"
    copies.mkdir()
    for path in tmp_path.glob("corpus*"):
        shutil.copy(path, copies)
    index.check_corpus(copies / "corpus", Corpus(copies / "corpus").fingerprint)
    other = write_corpus(tmp_path / "other", corpus.num_tokens, seed=1)
    with pytest.raises(InputError, match=r"made from another corpus than .*other"):
        index.check_corpus(other.prefix, other.fingerprint)


def test_an_existing_folder_is_not_touched(corpus, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "precious").write_text("mine")
    with pytest.raises(InputError, match=r"output exists already"):
        build_pack_index(corpus, settings(), output)
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_an_overlong_document_is_named_and_nothing_is_written(corpus, tmp_path):
    with pytest.raises(InputError, match=r"corpus has .* longer than the sequence length 64 .*"):
        build_pack_index(corpus, settings(sequence_length=64), tmp_path / "index")
    assert not [path for path in tmp_path.iterdir() if "index" in path.name]


def test_dropping_every_document_is_refused(corpus, tmp_path):
    plan = settings(sequence_length=1, overlong="drop")
    lengths = [length for length in corpus.num_tokens if length > 2]
    corpus = write_corpus(tmp_path / "long", lengths)
    with pytest.raises(InputError, match=r"every document of .* would be dropped"):
        build_pack_index(corpus, plan, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_failure_while_writing_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "document_ids.npy")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"index cannot be written.*No space left.*document_ids"):
        build_pack_index(corpus, settings(), tmp_path / "index")
    assert not [path for path in tmp_path.iterdir() if "index" in path.name]


def change(path, where, value):
    """Change one field of the manifest, such as ``figures.num_packs``, and write its digest."""
    edit_manifest(path, set_field(where, value))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path), "is not a pack index"),
        (lambda path: (path / "manifest.json").unlink(), "is not a pack index"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (
            lambda path: (path / "manifest.json").write_text("[]"),
            "holds a JSON list, not an object",
        ),
        (lambda path: (path / "manifest.json").write_text("{}"), "is not the manifest of a pack"),
        (lambda path: (path / "manifest.json").write_text("[" * 200_000), "nested too deeply"),
        (lambda path: (path / "document_ids.npy").unlink(), "document_ids.npy cannot be opened"),
        (lambda path: (path / "pack_offsets.npy").write_bytes(b"x"), "cannot be opened"),
        (lambda path: np.save(path / "document_ids.npy", np.arange(3)), "where the manifest says"),
    ],
)
def test_a_damaged_index_is_refused_with_the_file_named(index, damage, message):
    damage(index.path)
    with pytest.raises(InputError, match=message):
        PackIndex.open(index.path)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", "zip", "is not the manifest of a pack index"),
        ("format_version", 99, "format version 99"),
        ("format_version", 2.0, "format version 2.0"),
        ("format_version", True, "format version True"),
        ("arrays", {}, "does not list the arrays pack_offsets"),
        ("arrays", ["pack_offsets"], "does not list the arrays pack_offsets"),
        ("arrays", None, "does not list the arrays pack_offsets"),
        ("arrays.pack_offsets", {}, "lacks a field: arrays.pack_offsets.dtype"),
        ("arrays.pack_offsets", 7, "lacks a field: arrays.pack_offsets is 7, no object"),
        ("arrays.extra", {}, "lists an array 'extra', which is none"),
        ("arrays.segment_starts", {}, "lists one of segment_starts and segment_lengths alone"),
        ("arrays.document_ids.dtype", "<f8", r"document_ids is '<f8' \[300\]; it must be <i4 or"),
        ("arrays.document_ids.dtype", "|O", r"document_ids is '\|O' \[300\]; it must be <i4"),
        ("arrays.document_ids.shape", [300, 1], "of one dimension"),
        ("arrays.document_ids.shape", [2**62], "has 4611686018427387904 entries|need"),
        ("arrays.document_ids.shape", [-1], "has -1 for the number of segments"),
        ("arrays.document_ids.shape", [1e3], "has 1000.0 for arrays.document_ids.shape, not an in"),
        ("arrays.document_ids.shape", 300, "not a list"),
        ("arrays.document_ids.sha256", "0", "has no SHA-256 for document_ids"),
        ("plan", {}, "lacks a field: plan.sequence_length"),
        ("plan", {"sequence_length": 64}, "lacks a field: plan.strategy"),
        ("plan", None, "lacks a field: plan is None, no object"),
        ("plan.strategy", "best", "has 'best' for plan.strategy; this release knows padding"),
        ("plan.overlong", "keep", "has 'keep' for plan.overlong"),
        ("plan.effort", "low", "has 'low' for plan.effort"),
        ("plan.surprise", 1, "has 'surprise' in plan, which this release does not know"),
        ("plan.alignment", 0, "has 0 for plan.alignment, not 1 to 128"),
        ("plan.alignment", -8, "has -8 for plan.alignment"),
        ("plan.alignment", 7, "an alignment of 7, which does not divide its rows of 128"),
        ("plan.sequence_length", 10**30, "for plan.sequence_length, over 64 bits"),
        ("plan.sequence_length", 2**40, "for plan.sequence_length, not 1 to 67108864"),
        ("plan.sequence_length", "128", "has '128' for plan.sequence_length, not an integer"),
        ("plan.sequence_length", True, "has True for plan.sequence_length, not an integer"),
        ("plan.max_documents_per_pack", 0, "has 0 for plan.max_documents_per_pack"),
        ("plan.seed", -1, "has -1 for plan.seed"),
        ("corpus.prefix", None, "has None for corpus.prefix, not a text"),
        ("corpus.first_document", -1, "has -1 for corpus.first_document"),
        ("corpus.num_documents", 0, "has 0 for corpus.num_documents"),
        ("corpus.content_sha256", "ab", "for corpus.content_sha256, not a list"),
        ("figures.num_packs", 1, "says that pack_offsets has"),
        ("figures.max_documents_per_pack", 99, "has 99 for .*, but a pack has \\d+ segments"),
        ("figures.utilisation", float("nan"), "NaN is not JSON"),
        ("figures.utilisation", float("inf"), "Infinity is not JSON"),
        ("figures.utilisation", 1.5, "has a utilisation of 1.5"),
        ("figures.num_positions", -1, "has -1 for figures.num_positions"),
        ("figures.num_positions", 1.5, "has 1.5 for figures.num_positions, not an integer"),
    ],
)
def test_a_manifest_that_is_not_what_it_should_be_is_refused(index, where, value, message):
    change(index.path, where, value)
    with pytest.raises(InputError, match=message) as refusal:
        PackIndex.open(index.path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("where", ["plan.seed", "figures.num_packs_untrained"])
def test_fields_that_older_releases_did_not_write_may_be_missing(index, where):
    section, name = where.split(".")
    edit_manifest(index.path, lambda manifest: manifest[section].pop(name))
    assert len(PackIndex.open(index.path)) == len(index)


EDITS = [
    ("figures.lower_bound", 0),
    ("figures.utilisation", 0.5),
    ("plan.seed", 12345),
    ("plan.strategy", "padding"),
    ("plan.overlong", "drop"),
    ("corpus.prefix", "elsewhere"),
    ("corpus.largest_token", 1),
    ("corpus.largest_token", None),
    ("corpus.content_sha256", ["0" * 64]),
    ("corpus.tokenizer_sha256", "0" * 64),
    ("arrays.places_by_length.sha256", "0" * 64),
    ("manifest_sha256", "0" * 64),
    ("manifest_sha256", None),
]


@pytest.mark.parametrize(("where", "value"), EDITS)
def test_a_manifest_that_was_edited_is_refused(index, monkeypatch, where, value):
    monkeypatch.setattr("megatron_packing.index.pack_index.HASHED_BYTES", 0)
    edit_manifest(index.path, set_field(where, value), digest="kept")
    with pytest.raises(InputError, match=r"manifest\.json is not what was written \(its manifest_"):
        PackIndex.open(index.path)


def test_hashes_that_were_removed_from_a_manifest_are_missed(corpus, tmp_path):
    index = build_pack_index(corpus, settings(), tmp_path / "hashed", hash_content=True)
    edit_manifest(index.path, set_field("corpus.content_sha256", None), digest="kept")
    with pytest.raises(InputError, match=r"manifest\.json is not what was written"):
        PackIndex.open(index.path)


def test_a_manifest_may_be_indented_anew(index):
    edit_manifest(index.path, lambda _: None, digest="kept")
    assert PackIndex.open(index.path).has_manifest_digest


def test_a_manifest_of_an_earlier_release_has_no_digest_and_is_opened(index):
    edit_manifest(index.path, lambda _: None, digest="none")
    assert not PackIndex.open(index.path).has_manifest_digest


@pytest.mark.parametrize("digest", ["right", "none"])
def test_a_part_of_a_manifest_that_is_not_known_is_refused(index, digest):
    edit_manifest(index.path, set_field("surprise", 1), digest=digest)
    with pytest.raises(InputError, match="has 'surprise', which this release does not know"):
        PackIndex.open(index.path)


def test_huge_numbers_in_a_manifest_are_refused(index):
    text = (index.path / "manifest.json").read_text()
    (index.path / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1e999'))
    with pytest.raises(InputError, match=r"has inf for plan.seed, not an integer"):
        PackIndex.open(index.path)
    huge = '"seed": 1' + "0" * 10_000
    (index.path / "manifest.json").write_text(text.replace('"seed": 0', huge))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        PackIndex.open(index.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"PK\x03\x04" + bytes(100), "it is not a .npy file"),
        (b"\x93NUMPY\x02\x00" + bytes(100), "it is not a .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "its header is damaged"),
        (b"\x93NUMPY\x01\x00\x76\x00" + b"[" * 118, "its header is damaged"),
    ],
)
def test_a_file_that_is_no_array_is_refused(index, content, message):
    (index.path / "document_ids.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"document_ids.npy cannot be opened \({message}"):
        PackIndex.open(index.path)


def test_a_truncated_array_is_refused(index):
    path = index.path / "document_ids.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(UnreadableError, match=r"document_ids.npy cannot be opened \(it has \d+ of"):
        PackIndex.open(index.path)
    path.write_bytes(whole + b"x")
    with pytest.raises(InputError, match=r"document_ids.npy has \d+ bytes where \d+ belong"):
        PackIndex.open(index.path)


def test_pickled_arrays_are_not_loaded(index):
    np.save(index.path / "document_ids.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"document_ids.npy holds \|O"):
        PackIndex.open(index.path)


@pytest.mark.parametrize("name", ["manifest.json", "document_ids.npy"])
def test_what_is_no_regular_file_is_refused_without_waiting(index, name):
    path = index.path / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"{name} is a pipe, not a regular file"):
        PackIndex.open(index.path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name} is a device, not a regular file"):
        PackIndex.open(index.path)


def test_arrays_of_another_content_are_refused_at_once(index):
    path = index.path / "places_by_length.npy"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"places_by_length.npy is not what was written"):
        PackIndex.open(index.path)


def test_packs_of_an_index_too_large_to_hash_are_checked_when_they_are_read(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("megatron_packing.index.pack_index.HASHED_BYTES", 0)
    plan = settings(sequence_length=50, overlong="split")
    index = build_pack_index(corpus, plan, tmp_path / "split")
    num_tokens = corpus.num_tokens

    def read_all(name, at, value):
        """Every pack in two epochs, with one value of an array changed."""
        path = index.path / f"{name}.npy"
        whole = path.read_bytes()
        array = np.load(path)
        array[at] = value
        np.save(path, array)
        try:
            damaged = PackIndex.open(index.path)
            for pack in range(len(damaged)):
                for epoch in (0, 1):
                    damaged.segments(pack, num_tokens, epoch=epoch)
        finally:
            path.write_bytes(whole)

    read_all("document_ids", 0, index.document_ids[0])
    for name, at, value, message in (
        ("document_ids", 5, 300, "it holds documents that are not from 0 to 299"),
        ("document_ids", 5, -1, "it holds documents that are not from 0 to 299"),
        ("pack_offsets", 3, 10**9, "its segments are"),
        ("pack_offsets", 3, -4, "its segments are"),
        ("segment_starts", 2, -1, "it holds positions that its documents do not have"),
        ("segment_starts", 2, 2**62, "it holds positions that its documents do not have"),
        ("segment_lengths", 2, 2**62, "it holds positions that its documents do not have"),
        ("segment_lengths", 2, 0, "it holds a segment without a position"),
        ("places_by_length", 0, 10**6, "places_by_length does not list its segment"),
    ):
        with pytest.raises(InputError, match=rf"pack \d+ of .* is damaged: {message}"):
            read_all(name, at, value)
    with pytest.raises(InputError, match=r"pack_offsets.npy does not run from 0 to the \d+ segm"):
        read_all("pack_offsets", -1, 1)


def test_an_index_that_is_replaced_while_it_is_opened_is_not_mixed(corpus, index, tmp_path):
    """The arrays of one index with the manifest of another are no pack index."""
    other = build_pack_index(corpus, settings(seed=1), tmp_path / "other")
    assert other.document_ids.shape == index.document_ids.shape
    shutil.copytree(index.path, tmp_path / "first")

    def replace(number):
        source = (tmp_path / "first", other.path)[number % 2]
        for path in source.iterdir():
            shutil.copy(path, index.path / path.name)

    def open_while_replacing(times):
        """Open the index; another takes its place after the second array, so many times."""
        num_opened = 0

        def open_and_replace(*arguments, **named):
            nonlocal num_opened
            num_opened += 1
            array, status = open_array(*arguments, **named)
            array = np.array(array)  # as if it were another file's
            if num_opened % 4 == 2 and num_opened // 4 < times:
                replace(num_opened // 4 + 1)
            return array, status

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("megatron_packing.index.pack_index.open_array", open_and_replace)
            return PackIndex.open(index.path)

    for times in (1, 2, 4):
        found = open_while_replacing(times)
        found.check_arrays()
        assert found.digest == (index.digest, other.digest)[times % 2]
        replace(0)
    with pytest.raises(UnreadableError, match="was replaced by another pack index 5 times"):
        open_while_replacing(times=9)


def test_an_index_takes_one_descriptor_at_a_time_and_says_where_there_is_none(index):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (index.path / "manifest.json").open("rb") as file:
        lowest_free = file.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
        kept = [PackIndex.open(index.path) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        with pytest.raises(InputError, match=r"may open only \d+ files at a time; .* ulimit -n"):
            PackIndex.open(index.path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {one.digest for one in kept} == {index.digest}


def test_a_known_index_maps_its_arrays_at_the_first_use(index, monkeypatch):
    digest = PackIndex.open(index.path).known_digest()
    monkeypatch.setattr(PackIndex, "check_arrays", None)
    before = Path("/proc/self/maps").read_text().count(f"{index.path}/")
    known = PackIndex.open_known(index.path, digest)
    assert Path("/proc/self/maps").read_text().count(f"{index.path}/") == before
    assert len(known) == len(index)
    assert known.digest == index.digest
    assert is_mapped(known.document_ids)
    assert np.array_equal(known.document_ids, index.document_ids)
    (index.path / "pack_offsets.npy").unlink()
    late = PackIndex.open_known(index.path, digest)
    with pytest.raises(UnreadableError, match=r"pack_offsets.npy does not exist"):
        _ = late.document_ids


def test_a_known_index_that_is_another_one_is_refused(corpus, index, tmp_path):
    other = build_pack_index(corpus, settings(seed=1), tmp_path / "other")
    digest = index.known_digest()
    late = PackIndex.open_known(index.path, digest)
    pickled = pickle.dumps(late)
    shutil.rmtree(index.path)
    other.path.rename(index.path)
    with pytest.raises(InputError, match=r"is another pack index here than where it was opened"):
        PackIndex.open_known(index.path, digest)
    with pytest.raises(InputError, match=r"was replaced by another pack index after it was opened"):
        _ = late.pack_offsets
    with pytest.raises(InputError, match=r"is another pack index here"):
        pickle.loads(pickled)


def test_a_run_looks_at_arrays_as_old_as_their_manifest_and_hashes_others(index, monkeypatch):
    hashed = []
    monkeypatch.setattr(PackIndex, "_compare_hashes", lambda *_: hashed.append(1))
    looked = PackIndex.open(index.path, trust="manifest")
    assert looked._arrays is None
    assert np.array_equal(looked.document_ids, index.document_ids)
    assert hashed == []
    manifest = index.path / "manifest.json"
    os.utime(manifest, ns=(0, 0))  # as copied before the arrays
    assert np.array_equal(
        PackIndex.open(index.path, trust="manifest").document_ids, index.document_ids
    )
    assert hashed == [1]


def test_an_array_that_was_changed_is_refused_at_the_start_or_where_it_is_first_used(index):
    opened = PackIndex.open(index.path, trust="manifest")
    path = index.path / "document_ids.npy"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"document_ids.npy is not what was written \(its hash"):
        _ = opened.document_ids
    with pytest.raises(InputError, match=r"document_ids.npy is not what was written \(its hash"):
        PackIndex.open(index.path, trust="manifest")
    path.write_bytes(content[:-4])
    with pytest.raises(UnreadableError, match=r"document_ids.npy cannot be opened \(it has"):
        PackIndex.open(index.path, trust="manifest")
    path.unlink()
    with pytest.raises(UnreadableError, match=r"document_ids.npy does not exist"):
        PackIndex.open(index.path, trust="manifest")


def test_a_new_manifest_beside_older_arrays_is_refused_at_the_start_of_a_run_with_few(
    corpus, index, tmp_path, monkeypatch
):
    """As where a copy of a folder ended early."""
    other = build_pack_index(corpus, settings(seed=1), tmp_path / "other")
    for name in other.array_hashes:
        assert array_path(other.path, name).stat().st_size == (
            array_path(index.path, name).stat().st_size
        )
    shutil.copy2(other.path / "manifest.json", index.path)
    opened = PackIndex.open(index.path, trust="manifest")
    monkeypatch.setattr(pack_index, "HASHED_BYTES", 2 * opened.num_bytes - 1)
    PackIndex.check_few([opened, opened])
    assert opened._arrays is None
    monkeypatch.setattr(pack_index, "HASHED_BYTES", 2 * opened.num_bytes)
    _ = opened.document_ids  # that they were used makes them no better
    with pytest.raises(InputError, match=r"npy is not what was written \(its hash"):
        PackIndex.check_few([opened, opened])


def test_a_manifest_that_another_rank_read_is_read_again_only_if_it_is_another_file(
    index, tmp_path, monkeypatch
):
    opened = PackIndex.open(index.path)
    digest, seen = opened.known_digest(), opened.seen()
    copy = tmp_path / "copy"
    shutil.copytree(index.path, copy)
    assert PackIndex.open_known(copy, digest, seen).place() != opened.place()
    monkeypatch.setattr("megatron_packing.index.manifest.read_json_file", None)
    known = PackIndex.open_known(index.path, digest, seen)
    assert known.manifest == opened.manifest
    with pytest.raises(TypeError):
        PackIndex.open_known(copy, digest, seen)
