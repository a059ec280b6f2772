# SPDX-License-Identifier: Apache-2.0
"""The command line as its users type it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from megatron_packing import Corpus, PackIndex
from megatron_packing.cli import main
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from tests.conftest import chat_like_lengths, write_corpus
from tests.golden.make import FOLDER
from tests.index.manifest_file import edit_manifest, set_field
from tests.limits import TIME_LIMIT


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=129))


@pytest.fixture
def index(corpus, tmp_path, capsys):
    path = tmp_path / "index"
    status = main(["pack", str(corpus.prefix), "--sequence-length", "128", "--output", str(path)])
    assert status == 0
    capsys.readouterr()
    return path


def fails(capsys, *arguments) -> str:
    """Run a command that must fail, and give its one line."""
    assert main([str(argument) for argument in arguments]) == 1
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("megatron-packing: error: ")
    return line


def test_pack_prints_its_figures(corpus, tmp_path, capsys):
    arguments = [
        "--sequence-length",
        "128",
        "--strategy",
        "greedy",
        "--output",
        str(tmp_path / "d"),
    ]
    assert main(["pack", str(corpus.prefix), *arguments]) == 0
    output = capsys.readouterr().out
    index = PackIndex.open(tmp_path / "d")
    assert f"{len(index):,} rows of 128 positions" in output
    assert f"{index.figures.utilisation:.2%}" in output


def test_verify_says_that_an_index_is_right(index, capsys):
    assert main(["verify", str(index)]) == 0
    assert "100 documents exactly once" in capsys.readouterr().out


def test_verify_says_what_an_index_of_an_earlier_release_cannot_prove(index, capsys, monkeypatch):
    assert main(["verify", str(index)]) == 0
    assert "digest" not in capsys.readouterr().out
    edit_manifest(index, set_field("figures.lower_bound", 1), digest="none")
    assert main(["verify", str(index)]) == 0
    output = capsys.readouterr().out
    assert "note: it was written before manifests had a digest: nothing proves that" in output
    assert "note: this release proves a lower bound of" in output
    monkeypatch.chdir(FOLDER)
    assert main(["verify", "whole"]) == 0
    assert "before manifests had a digest" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "show", "export"])
def test_an_edited_manifest_is_refused_by_every_command(index, tmp_path, capsys, command):
    edit_manifest(index, set_field("corpus.tokenizer_sha256", "0" * 64), digest="kept")
    arguments = {
        "show": ("--pack", "0"),
        "export": ("--format", "nemo-npy", "--end-token", "2", "--output", tmp_path / "out"),
    }
    message = fails(capsys, command, index, *arguments.get(command, ()))
    assert "manifest.json is not what was written (its manifest_sha256 is that of" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "show", "export"])
def test_an_index_of_another_tokenizer_than_its_corpus_is_refused_by_every_command(
    index, tmp_path, capsys, command
):
    record = {"tokenizer": "x", "tokenizer_sha256": "ab" * 32}
    (tmp_path / "corpus_corpus.json").write_text(json.dumps(record))
    edit_manifest(index, set_field("corpus.tokenizer_sha256", "0" * 64), digest="none")
    arguments = {
        "show": ("--pack", "0", "--ids"),
        "export": ("--format", "nemo-npy", "--end-token", "2", "--output", tmp_path / "out"),
    }
    message = fails(capsys, command, index, *arguments.get(command, ()))
    assert "its tokenizer is 000000000000, but that of" in message
    assert not (tmp_path / "out").exists()


def test_verify_names_what_is_wrong(index, capsys):
    path = index / "document_ids.npy"
    documents = np.load(path)
    documents[0] = documents[1]
    np.save(path, documents)
    assert "document_ids.npy is not what was written" in fails(capsys, "verify", index)


def test_show_prints_figures_or_one_pack(index, corpus, capsys):
    assert main(["show", str(index)]) == 0
    assert "optimal" in capsys.readouterr().out
    assert main(["show", str(index), "--pack", "0"]) == 0
    output = capsys.readouterr().out
    segments = PackIndex.open(index).segments(0, corpus.num_tokens)
    for document in segments.document_ids:
        assert f"document {document:,}, " in output
    first = corpus.tokens(int(segments.document_ids[0]))[:3]
    assert " ".join(map(str, first)) in " ".join(output.split())


def test_show_decodes_with_the_tokenizer_of_the_corpus(
    few_conversations, chitchat, tmp_path, capsys
):
    pytest.importorskip("transformers")
    prefix, path = tmp_path / "chat", tmp_path / "index"
    tokenizer = ["--tokenizer", str(chitchat / "tokenizer"), "--workers", "1"]
    assert (
        main(["tokenize", str(few_conversations), "--output-prefix", str(prefix), *tokenizer]) == 0
    )
    assert "200 records (openai) = 200 documents + 0 rejects" in capsys.readouterr().out
    plan = ["--sequence-length", "1024", "--overlong", "drop", "--output", str(path)]
    assert main(["pack", str(prefix), *plan]) == 0
    capsys.readouterr()
    assert main(["show", str(path), "--pack", "0", "--max-tokens", "100000"]) == 0
    shown = capsys.readouterr().out
    records = few_conversations.read_text(encoding="utf-8").splitlines()
    segments = PackIndex.open(path).segments(0, Corpus(prefix).num_tokens)
    for document in segments.document_ids.tolist():
        messages = json.loads(records[document])["messages"]
        assert f"<s>[INST] {messages[0]['content'].splitlines()[0]}" in shown
        assert messages[1]["content"].splitlines()[0] in shown


@pytest.fixture
def small_chat(write_jsonl, chitchat, tmp_path, capsys):
    """Tokenize a good record and two bad ones."""
    pytest.importorskip("transformers")
    good = {"prompt": "Hi [INST] you", "completion": "Ho ho"}
    path = write_jsonl(good, "{", {"prompt": "a", "completion": ""})
    prefix = tmp_path / "small"
    tokenizer = ["--tokenizer", str(chitchat / "tokenizer"), "--workers", "1"]
    command = ["tokenize", str(path), "--output-prefix", str(prefix), *tokenizer]
    assert main([*command, "--on-bad-record", "skip"]) == 0
    return prefix, capsys.readouterr()


def test_tokenize_prints_what_became_of_every_record(small_chat):
    prefix, output = small_chat
    assert f"{prefix}: 3 records (prompt-completion) = 1 document + 2 rejects" in output.out
    lines = [line.split() for line in output.out.splitlines()]
    assert ["not", "JSON", "1"] in lines
    assert ["empty", "answer", "1"] in lines
    assert f"{prefix}_rejects.jsonl" in output.out
    assert "1 document contains special tokens in its own text" in output.out  # [INST]
    assert output.err == ""


def test_show_prints_a_document_with_what_is_trained(small_chat, capsys):
    prefix, _ = small_chat
    assert main(["show", str(prefix), "--document", "0"]) == 0
    title, header, prompt, answer = capsys.readouterr().out.splitlines()
    num_tokens = int(Corpus(prefix).num_tokens[0])
    num_trained = int(Corpus(prefix).loss_mask(0).sum())
    assert title == f"document 0 of 1: {num_tokens} tokens, {num_trained} of them trained"
    assert header.split() == ["tokens", "trained", "text"]
    first = num_tokens - num_trained
    assert prompt.split()[:4] == ["0", "to", str(first - 1), "no"]
    assert "<s>[INST] Hi [INST] you[/INST]" in prompt
    assert answer.split()[:4] == [str(first), "to", str(num_tokens - 1), "yes"]
    assert answer.rstrip().endswith("Ho ho</s>")
    assert main(["show", str(prefix), "--document", "0", "--max-tokens", "2"]) == 0
    assert f"{num_tokens - 2} more tokens: --max-tokens {num_tokens}" in capsys.readouterr().out
    assert "small has documents 0 to 0" in fails(capsys, "show", prefix, "--document", 1)
    assert "--max-tokens is 0" in fails(capsys, "show", prefix, "--document", 0, "--max-tokens", 0)


def test_show_refuses_another_tokenizer(small_chat, tmp_path, capsys):
    prefix, _ = small_chat
    record = tmp_path / "small_corpus.json"
    described = json.loads(record.read_text())
    record.write_text(json.dumps({**described, "tokenizer_sha256": "0"}))
    show = ("show", prefix, "--document", 0)
    assert "is not the one that" in fails(capsys, *show)
    record.write_text("{")
    assert "small_corpus.json is damaged" in fails(capsys, *show)
    record.write_text("{}")
    assert main(["show", str(prefix), "--document", "0"]) == 0
    assert str(Corpus(prefix).tokens(0)[0]) in capsys.readouterr().out


def test_tokenize_names_what_is_wrong_with_its_options(write_jsonl, chitchat, tmp_path, capsys):
    pytest.importorskip("transformers")
    path = write_jsonl({"prompt": "a", "completion": "b"}, "{")
    command = ["tokenize", path, "--output-prefix", tmp_path / "x", "--tokenizer"]
    line = fails(capsys, *command, chitchat / "tokenizer", "--workers", 1)
    assert "input.jsonl, line 2 cannot be used: it is not JSON" in line
    assert "--on-bad-record skip" in line
    assert not list(tmp_path.glob("x*"))
    assert "no such file or folder" in fails(capsys, *command, "./nowhere")
    assert "--date is 'today'" in fails(capsys, *command, chitchat / "tokenizer", "--date", "today")
    with pytest.raises(SystemExit) as stop:
        main([*map(str, command), str(chitchat / "tokenizer"), "--template-argument", "x"])
    assert stop.value.code == 2
    assert "'x' is not NAME=VALUE" in capsys.readouterr().err


def test_ctrl_c_says_that_tokenizing_goes_on(
    few_conversations, chitchat, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("transformers")
    from megatron_packing.tokenize import unfinished

    def interrupted(*_):
        raise KeyboardInterrupt

    command = ["tokenize", str(few_conversations), "--workers", "1"]
    command += ["--output-prefix", str(tmp_path / "x"), "--tokenizer", str(chitchat / "tokenizer")]
    monkeypatch.setattr(unfinished.UnfinishedCorpus, "publish", interrupted)
    assert main([*command, "--checkpoint-seconds", "0"]) == 130
    line = "megatron-packing: error: interrupted; run the same command again to resume\n"
    assert capsys.readouterr().err == line
    monkeypatch.undo()
    assert main(command) == 0
    assert "resuming after 200 records" in capsys.readouterr().err


def test_bad_command_lines_are_refused_by_name(corpus, index, tmp_path, capsys):
    pack = ["pack", corpus.prefix, "--output", tmp_path / "new", "--sequence-length"]
    assert "longer than the sequence length 64 (document" in fails(capsys, *pack, 64)
    assert "--sequence-length is -5" in fails(capsys, *pack, -5, "--overlong", "split")
    assert "--sequence-length is 0" in fails(capsys, *pack, 0)
    assert "--documents is '50'" in fails(capsys, *pack, 128, "--documents", "50")
    assert "--documents is '0:101'" in fails(capsys, *pack, 128, "--documents", "0:101")
    assert "--packs-multiple-of is 0" in fails(capsys, *pack, 128, "--packs-multiple-of", 0)
    assert "cuts documents" in fails(
        capsys, *pack, 128, "--strategy", "random", "--overlong", "drop"
    )
    assert not (tmp_path / "new").exists()
    assert "index exists already" in fails(
        capsys, "pack", corpus.prefix, "--sequence-length", 128, "--output", index
    )
    assert "has packs 0 to" in fails(capsys, "show", index, "--pack", 10**6)
    assert "is not a pack index" in fails(capsys, "verify", tmp_path)
    missing = tmp_path / "missing"
    assert "missing.idx does not exist" in fails(
        capsys, "pack", missing, "--sequence-length", 128, "--output", tmp_path / "new"
    )


def test_an_index_of_another_corpus_is_refused(corpus, index, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", corpus.num_tokens, seed=9)
    message = fails(capsys, "verify", index, "--corpus", other.prefix)
    assert "was made from another corpus than" in message
    assert "megatron-packing pack" in message


def test_a_truncated_corpus_is_refused(corpus, index, tmp_path, capsys):
    data = tmp_path / "corpus.bin"
    data.write_bytes(data.read_bytes()[:-100])
    assert "corpus.bin has" in fails(capsys, "verify", index)
    new = tmp_path / "new"
    pack = ["pack", corpus.prefix, "--sequence-length", 128, "--output", new]
    assert "truncated" in fails(capsys, *pack)
    assert not new.exists()


def test_a_moved_corpus_is_named_and_found_with_a_flag(index, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("corpus*"):
        shutil.move(path, elsewhere)
    assert "is neither at" in fails(capsys, "verify", index)
    assert main(["verify", str(index), "--corpus", str(elsewhere / "corpus")]) == 0


@pytest.mark.parametrize("arguments", [[], ["pack"], ["fly"], ["pack", "x", "--strategy", "best"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: megatron-packing" in capsys.readouterr().err


def test_planning_needs_neither_torch_nor_megatron_nor_transformers(corpus, tmp_path):
    """As on a login node: the modules are not there."""
    program = (
        "import sys\n"
        "for name in ('torch', 'megatron', 'transformers'): sys.modules[name] = None\n"
        "from megatron_packing.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )

    index = tmp_path / "index"
    assert run("pack", corpus.prefix, "--sequence-length", 128, "--output", index).returncode == 0
    assert run("verify", index).returncode == 0
    assert run("show", index, "--pack", 0).returncode == 0
    assert run("compare", corpus.prefix, "--sequence-length", 128).returncode == 0
    refused = run("tokenize", __file__, "--output-prefix", tmp_path / "x", "--tokenizer", "y")
    assert refused.returncode == 1
    assert "pip install 'megatron-packing[tokenize]'" in refused.stderr


def test_ctrl_c_leaves_nothing(corpus, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    output = tmp_path / "output"
    pack = ["pack", str(corpus.prefix), "--sequence-length", "128", "--output", str(output)]
    assert main(pack) == 130
    assert capsys.readouterr().err == "megatron-packing: error: interrupted; nothing was written\n"
    assert not [path for path in tmp_path.iterdir() if "output" in path.name]


def test_pack_takes_lengths_in_place_of_a_corpus(tmp_path, capsys):
    lengths = tmp_path / "lengths.npy"
    np.save(lengths, np.array([5, 3, 9, 8, 1, 4], np.uint16))
    output = tmp_path / "index"
    arguments = ["--lengths", str(lengths), "--sequence-length", "10", "--output", str(output)]
    assert main(["pack", *arguments]) == 0
    assert "4: optimal" in capsys.readouterr().out
    assert main(["verify", str(output)]) == 0
    np.save(lengths, np.array([5, 3, 9, 8, 1, 5], np.uint16))
    assert "another corpus" in fails(capsys, "verify", output)


def test_pack_wants_a_corpus_or_lengths(tmp_path, capsys):
    missing = ["--sequence-length", "10", "--output", tmp_path / "index"]
    assert "give one PREFIX or more, or --lengths" in fails(capsys, "pack", *missing)
    text = tmp_path / "lengths.npy"
    text.write_text("1 2 3")
    assert "lengths.npy cannot be read" in fails(capsys, "pack", "--lengths", text, *missing)
    assert "does not exist" in fails(capsys, "pack", "--lengths", tmp_path / "no.npy", *missing)


def test_pack_puts_several_corpora_in_one_index(corpus, tmp_path, capsys):
    output = tmp_path / "together"
    names = [str(corpus.prefix), f"{corpus.prefix}:0.5"]
    assert main(["pack", *names, "--sequence-length", "128", "--output", str(output)]) == 0
    assert main(["verify", str(output)]) == 0
    assert "exactly once" in capsys.readouterr().out


def test_pack_refuses_corpora_of_different_tokenizers(corpus, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", [5, 6])
    for prefix, digest in ((corpus.prefix, "aa" * 32), (other.prefix, "bb" * 32)):
        record = {"tokenizer": prefix.name, "tokenizer_sha256": digest}
        prefix.with_name(f"{prefix.name}_corpus.json").write_text(json.dumps(record))
    output = tmp_path / "both"
    command = ["pack", corpus.prefix, other.prefix, "--sequence-length", 128, "--output", output]
    assert "so their token ids mean different texts" in fails(capsys, *command)
    assert not output.exists()
    assert main([*map(str, command), "--allow-other-tokenizer"]) == 0
    assert PackIndex.open(output).corpus.tokenizer_sha256 is None
    alone = ["pack", corpus.prefix, "--sequence-length", 128, "--output", tmp_path / "alone"]
    assert main([*map(str, alone)]) == 0
    assert PackIndex.open(tmp_path / "alone").corpus.tokenizer_sha256 == "aa" * 32


def test_pack_and_verify_say_how_a_corpus_is_used(corpus, tmp_path, capsys):
    for path in tmp_path.glob("corpus_loss_mask.*"):
        path.unlink()
    output = tmp_path / "half"
    command = ["pack", f"{corpus.prefix}:0.5", "--sequence-length", "128", "--output", str(output)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "corpus has no loss mask: all of its tokens are trained" in said
    assert "is another part of the documents in each epoch of training" in said
    assert main(["verify", str(output), "--deep"]) == 0
    said = capsys.readouterr().out
    assert "has no loss mask" in said
    assert "are what was packed (hashes are equal)" in said


def test_pack_and_verify_refuse_other_values_in_a_loss_mask(corpus, index, tmp_path, capsys):
    path = tmp_path / "corpus_loss_mask.bin"
    path.write_bytes(path.read_bytes().replace(b"\1", b"\xff"))
    command = ["pack", corpus.prefix, "--sequence-length", 128, "--output", tmp_path / "new"]
    assert "corpus_loss_mask.bin has 255 in document 0; a loss mask must be 1" in fails(
        capsys, *command
    )
    assert "corpus_loss_mask.bin has 255 in document 0" in fails(capsys, "verify", index)


@pytest.mark.parametrize("token", [-1, 2**33 + 5])
def test_pack_refuses_tokens_that_are_none(tmp_path, capsys, token):
    with IndexedDatasetWriter(tmp_path / "wide", np.dtype(np.int64)) as writer:
        writer.add(np.array([1, 2, 3, token, 5]), np.array([2, 3]))
    wide, output = tmp_path / "wide", tmp_path / "new"
    command = ["pack", wide, "--sequence-length", 128, "--output", output, "--no-content-hashes"]
    assert f"wide.bin has token {token} in document 1" in fails(capsys, *command)
    assert not output.exists()


def test_lengths_that_moved_are_verified_where_they_are(tmp_path, capsys):
    np.save(tmp_path / "lengths.npy", np.array([5, 3, 9]))
    output = tmp_path / "index"
    pack = ["--lengths", str(tmp_path / "lengths.npy"), "--sequence-length", "10"]
    assert main(["pack", *pack, "--output", str(output)]) == 0
    shutil.move(tmp_path / "lengths.npy", tmp_path / "moved.npy")
    assert "does not exist" in fails(capsys, "verify", output)
    assert main(["verify", str(output), "--corpus", str(tmp_path / "moved.npy")]) == 0
    assert "there are no tokens for --deep" in fails(capsys, "verify", output, "--deep")


def test_a_result_replaces_a_result_and_nothing_else(index, tmp_path, capsys):
    result = tmp_path / "result.json"
    for command in (["show", str(index)], ["verify", str(index)]):
        assert main([*command, "--json", str(result)]) == 0
    assert json.loads(result.read_text(encoding="utf-8"))["index"] == str(index)
    chat = tmp_path / "chat.json"
    chat.write_text('{\n  "messages": []\n}\n', encoding="utf-8")
    for other in (chat, index / "manifest.json", tmp_path / "corpus.bin"):
        before = other.read_bytes()
        error = fails(capsys, "show", index, "--json", other)
        assert f"--json would replace {other}, which holds something else" in error
        assert other.read_bytes() == before


def test_the_manifest_of_an_index_is_told_from_other_files(index, capsys):
    error = fails(capsys, "verify", index / "manifest.json")
    assert f"is a file of the pack index {index}: give {index}" in error


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("made/", "made/ is a folder; give the beginning of"), ("a:2", "a:2 has a colon, which")],
)
def test_a_prefix_that_no_command_would_find_again_is_refused(prefix, message, tmp_path, capsys):
    words = ["tokenize", "x.jsonl", "--tokenizer", "x", "--output-prefix", f"{tmp_path}/{prefix}"]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
