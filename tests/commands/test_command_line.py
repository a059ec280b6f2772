# SPDX-License-Identifier: Apache-2.0
"""What every verb has in common: help, mistakes in arguments, JSON, and what the terminal gets."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import megatron_packing
from megatron_packing.cli import COMMANDS, FIRST_STEPS, main, make_parser
from megatron_packing.counted import counted
from megatron_packing.report.visible import visible, visible_line
from tests.conftest import chat_like_lengths, write_corpus
from tests.limits import TIME_LIMIT

COMMAND = [sys.executable, "-m", "megatron_packing"]


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=129))


@pytest.fixture
def index(corpus, tmp_path, capsys):
    path = tmp_path / "index"
    words = ["pack", str(corpus.prefix), "--sequence-length", "128", "--output", str(path)]
    assert main(words) == 0
    capsys.readouterr()
    return path


def wrong_usage(capsys, *words) -> str:
    """The last line of what a wrong command line is answered with."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert "usage: megatron-packing" in errors
    return errors.splitlines()[-1]


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_an_example_that_is_accepted_and_every_default(verb, capsys):
    parser, verbs = make_parser()
    words = COMMANDS[verb].EXAMPLE.split()
    assert words[:2] == ["megatron-packing", verb]
    assert parser.parse_args(words[1:]).command == verb
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert COMMANDS[verb].EXAMPLE in shown
    formatter = verbs[verb].formatter_class(verb)
    for action in verbs[verb]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        help_text = formatter._get_help_string(action) or ""
        name = action.option_strings or action.dest
        assert help_text.partition("(default")[0].strip(), f"{name} has no help"
        assert not help_text.startswith("default"), f"{name} says its default alone"
        if action.option_strings and not action.required:
            assert "default" in help_text, f"{name} does not say its default"


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_fits_the_terminal(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [
        line
        for line in lines
        if len(line) > 80 and COMMANDS[verb].EXAMPLE not in line and "{" not in line
    ] == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_each_flag_is_suggested_where_two_of_its_letters_are_swapped(verb, capsys):
    flags = [flag for flag in make_parser()[1][verb].flags if flag.startswith("--")]
    for flag in flags:
        middle = len(flag) // 2
        mistyped = flag[:middle] + flag[middle + 1] + flag[middle] + flag[middle + 2 :]
        if mistyped in flags or any(other.startswith(mistyped) for other in flags):
            continue
        line = wrong_usage(capsys, *COMMANDS[verb].EXAMPLE.split()[1:], mistyped)
        assert f"did you mean {flag} in place of {mistyped}?" in line


def test_without_arguments_it_says_what_to_do_first(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown == FIRST_STEPS
    assert len(shown.splitlines()) <= 12
    assert max(map(len, shown.splitlines())) <= 100


def test_the_first_steps_are_right(chitchat, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()[:30]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    steps = FIRST_STEPS.replace("TOKENIZER_FOLDER", str(chitchat / "tokenizer"))
    words = [line.split() for line in steps.splitlines() if line.startswith("  megatron-packing ")]
    assert [step[1] for step in words] == ["tokenize", "compare", "pack", "show"]
    for step in words:
        assert main(step[1:]) == 0


def test_the_package_runs_as_the_command_and_says_its_version():
    version = f"megatron-packing {megatron_packing.__version__}\n"
    done = subprocess.run(
        [*COMMAND, "--version"], capture_output=True, text=True, timeout=TIME_LIMIT
    )
    assert (done.returncode, done.stdout) == (0, version)
    assert importlib.metadata.version("megatron-packing") == megatron_packing.__version__


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("megatron-packing ver", ["verify"]),
        ("megatron-packing pack data --overl", ["--overlong"]),
        ("megatron-packing pack data --overlong ", ["error", "drop", "truncate", "split"]),
        ("megatron-packing compare data --strategy", []),
    ],
)
def test_shells_complete_verbs_flags_and_choices(typed, offered, tmp_path):
    pytest.importorskip("argcomplete")
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"),
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "COMP_TYPE": "9",
    }
    subprocess.run(COMMAND, env=environment, cwd=tmp_path, timeout=TIME_LIMIT, check=True)
    assert (tmp_path / "offered").read_text().split() == offered


def test_a_shell_that_asks_an_install_without_argcomplete_gets_nothing():
    program = (
        "import sys, runpy; sys.modules['argcomplete'] = None; "
        "runpy.run_module('megatron_packing', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_ARGCOMPLETE": "1"},
        capture_output=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_mistyped_words_are_answered_with_what_was_meant(capsys):
    assert wrong_usage(capsys, "pakc", "x").endswith("; did you mean 'pack'?")
    line = wrong_usage(capsys, "pack", "x", "--output", "o", "--sequence-lenght", 128)
    assert line.endswith("; did you mean --sequence-length in place of --sequence-lenght?")
    line = wrong_usage(capsys, "pack", "x", "--output", "o", "--seq", 128)
    assert line.endswith("; did you mean --sequence-length in place of --seq?")
    complete = ("pack", "x", "--output", "o", "--sequence-length", 128)
    line = wrong_usage(capsys, *complete, "--overlogn", "split")
    assert "unrecognized arguments: --overlogn split" in line
    assert line.endswith("; did you mean --overlong in place of --overlogn?")
    line = wrong_usage(capsys, *complete, "--strategy", "optimall")
    assert line.endswith("; did you mean 'optimal'?")
    assert "did you mean" not in wrong_usage(capsys, *complete, "--zzz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequence-length", "1e3"], "'1e3' is not a whole number"),
        (["--sequence-length", "128.0"], "'128.0' is not a whole number"),
        (["--sequence-length", "nan"], "'nan' is not a whole number"),
        (["--sequence-length", "9" * 20], "is beyond 64 bits"),
        (["--sequence-length", "9" * 5000], "is not a whole number"),
        (["--sequence-length", "-" + "9" * 20], "is beyond 64 bits"),
        (["--sequence-length", "128", "--seed", "18446744073709551616"], "is beyond 64 bits"),
        (["--sequence-length", "128", "--output", ""], "the path is empty"),
    ],
)
def test_arguments_that_are_no_numbers_or_paths_are_refused(
    corpus, tmp_path, capsys, words, message
):
    words = ["pack", corpus.prefix, "--output", tmp_path / "new", *words]
    assert message in wrong_usage(capsys, *words)


def test_a_number_that_is_not_finite_is_refused(capsys):
    words = ["tokenize", "x", "--output-prefix", "o", "--tokenizer", "t", "--checkpoint-seconds"]
    for text in ("nan", "inf", "1e999"):
        assert "is not a finite number" in wrong_usage(capsys, *words, text)


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "", "--sequence-length", "8", "--output", "new"],
        ["tokenize", "", "--output-prefix", "new", "--tokenizer", "t"],
        ["tokenize", "x", "--output-prefix", "new", "--tokenizer", ""],
        ["show", ""],
    ],
)
def test_empty_words_are_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is empty; is a variable unset?" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x[/y]/o", "[b]/e", "[red]x", ":smile:", "a\x1b[2Jb", "\udcff"])
def test_paths_are_printed_as_they_are(corpus, tmp_path, capsys, name):
    output = tmp_path / name
    try:
        os.fsencode(name)
        output.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeError):
        pytest.skip("the file system has no such names")
    words = [str(corpus.prefix), "--sequence-length", "128", "--output", str(output)]
    assert main(["pack", *words]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {visible(str(output))} in" in printed
    for verb in (
        ["verify", str(output)],
        ["show", str(output)],
        ["show", str(output), "--pack", "0"],
    ):
        assert main(verb) == 0
    assert main(["pack", *words]) == 1
    captured = capsys.readouterr()
    assert f"error: {visible(str(output))} exists already" in captured.err
    assert "\x1b" not in captured.out + captured.err


def test_control_characters_are_visible_and_letters_stay():
    everything = "".join(map(chr, range(0x11000)))
    shown = visible(everything)
    steering = [
        character
        for character in shown
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character)
        in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    ]
    assert steering == ["\t", "\n"]
    assert visible("\x1b[2J\x07\r\x9b\x7f\u202e\0") == "␛[2J␇␍\\x9b␡\\u202e␀"
    for text in ("naïve שלום مرحبا 日本語 🙂👩‍👩‍👧 é", "tab\tline\n"):
        assert visible(text) == text
    assert visible_line("a\tb\nc") == "a␉b␊c"


def test_counts_have_their_number():
    assert counted(0, "document") == "0 documents"
    assert counted(1, "document") == "1 document"
    assert counted(2000, "box", "boxes") == "2,000 boxes"


def test_json_goes_alone_to_standard_output(corpus, index, tmp_path, capsys):
    prefix = str(corpus.prefix)
    pack = ["pack", prefix, "--sequence-length", "128", "--output", str(tmp_path / "new")]
    export = ["export", str(index), "--format", "nemo-npy", "--end-token", "300"]
    commands = {
        "pack": pack,
        "verify": ["verify", str(index)],
        "compare": ["compare", prefix, "--sequence-length", "128"],
        "export": [*export, "--output", str(tmp_path / "exported")],
        "import": ["import", str(tmp_path / "exported"), "--output-prefix", str(tmp_path / "back")],
    }
    for verb, words in commands.items():
        assert main([*words, "--json", "-"]) == 0
        output = capsys.readouterr()
        assert set(json.loads(output.out)) == set(COMMANDS[verb].JSON_KEYS), verb
        assert output.err  # what else there is to say
    for words in ([str(index)], [prefix], [str(index), "--pack", "0"], [prefix, "--document", "3"]):
        path = tmp_path / "shown.json"
        assert main(["show", *words, "--json", str(path)]) == 0
        keys = set(json.loads(path.read_text()))
        assert keys & set(COMMANDS["show"].JSON_KEYS)
        assert capsys.readouterr().out


def test_tokenize_writes_its_counts_as_json(write_jsonl, chitchat, tmp_path, capsys):
    pytest.importorskip("transformers")
    path = write_jsonl({"prompt": "a", "completion": "b"})
    words = ["tokenize", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
    assert main([*words, "--tokenizer", str(chitchat / "tokenizer"), "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == set(COMMANDS["tokenize"].JSON_KEYS)
    assert record["num_documents"] == 1
    assert main(["show", str(tmp_path / "x"), "--json", "-"]) == 0
    shown = json.loads(capsys.readouterr().out)
    for name in ("num_documents", "num_tokens", "num_trained_tokens"):
        assert shown[name] == record[name]


def test_json_is_written_into_devices_and_pipes(index, tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        device = Path(os.devnull)
    before = device.stat()
    assert main(["verify", str(index), "--json", str(device)]) == 0
    assert os.path.samestat(before, device.stat())
    assert stat.S_ISCHR(device.stat().st_mode)
    words = [*COMMAND, "verify", str(index), "--json"]
    for target in ("-", "/dev/stdout"):
        process = subprocess.run(
            [*words, target], capture_output=True, timeout=TIME_LIMIT, check=True
        )
        assert json.loads(process.stdout)["index"] == str(index)
    with (tmp_path / "out.json").open("w") as file:
        subprocess.run([*words, "/dev/stdout"], stdout=file, timeout=TIME_LIMIT, check=True)
    assert json.loads((tmp_path / "out.json").read_text())["index"] == str(index)


def test_a_reader_that_ends_early_is_no_error(corpus, tmp_path):
    np.save(tmp_path / "lengths.npy", np.full(100, 5))
    words = [*COMMAND, "show", str(corpus.prefix), "--document", "0", "--max-tokens", "99999"]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        words, stdout=writer, stderr=subprocess.PIPE, timeout=TIME_LIMIT, check=False
    )
    os.close(writer)
    assert process.stderr == b""
    assert process.returncode == 141


def test_too_many_packs_are_refused_in_one_sentence(corpus, tmp_path, capsys):
    words = ["pack", str(corpus.prefix), "--sequence-length", "128", "--output"]
    assert main([*words, str(tmp_path / "new"), "--min-packs", "4611686018427387904"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--min-packs" in line
    assert not (tmp_path / "new").exists()


def test_a_terminal_without_unicode_gets_escapes(corpus, tmp_path):
    environment = dict(os.environ, PYTHONIOENCODING="ascii")
    output = tmp_path / "é"
    words = ["pack", corpus.prefix, "--sequence-length", "128", "--output", output]
    process = subprocess.run(
        [*COMMAND, *map(str, words)],
        env=environment,
        capture_output=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    assert b"wrote" in process.stdout
    assert b"\\xe9" in process.stdout


@pytest.mark.parametrize("address", ["s3://bucket/new", "msc://profile/new"])
def test_addresses_are_refused_where_files_are_local(index, corpus, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    pack = ["pack", f"{corpus.prefix}", "--sequence-length", "128"]
    commands = [
        [*pack, "--output", address],
        [*pack, "--output", f"{tmp_path / 'packs'}", "--json", f"{address}.json"],
        ["export", f"{index}", "--format", "nemo-npy", "--end-token", "3", "--output", address],
        ["import", f"{index}", "--output-prefix", address],
        ["verify", address],
    ]
    for words in commands:
        process = subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, timeout=TIME_LIMIT
        )
        assert process.returncode == 1
        assert f"is the address {address}" in process.stderr
        assert f"{words[0]} needs a local path" in process.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_corpora_without_a_tokenizers_name_beside_others_and_given_twice_are_told(
    corpus, tmp_path, capsys
):
    named = write_corpus(tmp_path / "named", chat_like_lengths(50, longest=129))
    record = {"tokenizer": "some", "tokenizer_sha256": "0" * 64}
    (tmp_path / "named_corpus.json").write_text(json.dumps(record))
    words = ["--sequence-length", "128", "--output", str(tmp_path / "packs")]
    assert main(["pack", f"{corpus.prefix}", f"{named.prefix}", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{corpus.prefix} does not say which tokenizer it was made with" in printed
    assert f"the texts that they mean in {named.prefix}" in printed
    words[-1] += "2"
    assert main(["pack", f"{corpus.prefix}", f"{corpus.prefix}", *words]) == 0
    assert f"{corpus.prefix} is given 2 times" in " ".join(capsys.readouterr().out.split())
