# SPDX-License-Identifier: Apache-2.0
"""What remains when a run is killed, or the disk is full.

More kills: ``MEGATRON_PACKING_KILLS=100 pytest tests/tokenize/test_killed.py -k kill``
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("transformers")

from megatron_packing.cli import main
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from tests.commands.test_killed import run_killed  # noqa: F401 - a fixture

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json", "_rejects.jsonl")


def command(path: Path, prefix: Path, chitchat: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "megatron_packing.cli", "tokenize", str(path)),
        *("--output-prefix", str(prefix), "--tokenizer", str(chitchat / "tokenizer")),
        *("--on-bad-record", "skip", *more),
    ]


def contents(prefix: Path) -> dict[str, bytes]:
    return {ending: Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS}


KILLS = int(os.environ.get("MEGATRON_PACKING_KILLS", "4"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_as_a_name_changes_is_finished_by_the_next(
    chitchat,
    tmp_path,
    run_killed,  # noqa: F811
):
    """Before or after every such call; every seventh for fewer than 100 kills."""
    lines = (chitchat / "conversations.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"".join([*lines[:20], b"{broken\n"]))
    whole = tmp_path / "whole" / "corpus"
    assert main(command(path, whole, chitchat, "--workers", "1")[3:]) == 0
    stride = 1 if KILLS >= 100 else 7
    seen = Counter()
    for number in itertools.count(0, stride):
        prefix = tmp_path / str(number) / "corpus"
        words = command(path, prefix, chitchat, "--workers", "1", "--checkpoint-seconds", "0")[3:]
        if run_killed(number, words) == 0:
            break
        was_there = Path(f"{prefix}.idx").exists()
        if was_there:
            assert contents(prefix) == contents(whole), "a corpus that can be seen is whole"
        status = main(words)
        # Where all that was left was to remove the folder, it is told as finished or as there.
        assert status == 0 or was_there
        assert contents(prefix) == contents(whole)
        assert {one.name for one in prefix.parent.iterdir()} == {
            f"corpus{ending}" for ending in ENDINGS
        }
        seen["whole" if was_there else "nothing"] += 1
    sys.stdout.write(f"\nkilled {seen.total()} times: {dict(seen)}\n")
    assert seen["nothing"] >= 3


def session_of(pid: int) -> set[int]:
    """The processes of a session, by Linux's own table."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        (signal.SIGTERM, False),
        pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
        (signal.SIGKILL, False),
    ],
)
def test_workers_end_with_their_parent_and_the_run_goes_on(chitchat, tmp_path, number, to_all):
    path = tmp_path / "long.jsonl"
    path.write_bytes((chitchat / "conversations.jsonl").read_bytes() * 5)
    run = command(path, tmp_path / "out", chitchat, "--checkpoint-seconds", "0")
    process = subprocess.Popen(
        [*run, "--workers", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # Under nohup it is ignored by what the test starts, too.
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )
    state = tmp_path / "out.unfinished" / "state.json"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(session_of(process.pid)) >= 3
    if to_all:  # as a terminal that is closed, or a scheduler
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=TIME_LIMIT)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130, errors.decode()
        assert errors.decode().splitlines()[-1] == (
            "megatron-packing: error: interrupted; run the same command again to resume"
        )
    deadline = time.monotonic() + TIME_LIMIT
    while session_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session_of(process.pid)
    assert json.loads(state.read_text())["num_records"] > 0


@pytest.mark.slow
def test_a_worker_that_is_killed_for_its_memory_ends_the_run(chitchat, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes((chitchat / "conversations.jsonl").read_bytes() * 5)
    run = command(path, tmp_path / "out", chitchat, "--checkpoint-seconds", "0", "--workers", "2")
    process = subprocess.Popen(
        run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while not (tmp_path / "out.unfinished" / "state.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    worker = next(
        number
        for number in session_of(process.pid)
        if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
    )
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1] == (
        "megatron-packing: error: a tokenizing worker died, most likely because memory ran out; "
        "run the same command with fewer --workers"
    )


@pytest.fixture
def conversations(chitchat, tmp_path) -> Path:
    """The real conversations with a bad line after every hundred."""
    lines = (chitchat / "conversations.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "input.jsonl"
    with path.open("wb") as file:
        for number, line in enumerate(lines):
            file.write(line)
            if number % 100 == 99:
                file.write(b"{broken\n")
    return path


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_many_times_ends_with_the_bytes_of_one_left_alone(
    conversations, chitchat, tmp_path
):
    whole = tmp_path / "whole"
    tokenize(
        TokenizeOptions(
            inputs=[conversations],
            output_prefix=whole,
            tokenizer=str(chitchat / "tokenizer"),
            on_bad_record="skip",
        )
    )
    prefix = tmp_path / "killed"

    def begin_again():
        assert contents(prefix) == contents(whole)
        for ending in ENDINGS:
            Path(f"{prefix}{ending}").unlink()

    chance = random.Random(5)
    kills = with_progress = 0
    while kills < KILLS:
        workers = str(chance.choice([1, 2]))
        arguments = ["--workers", workers, "--checkpoint-seconds", "0.05"]
        process = subprocess.Popen(
            command(conversations, prefix, chitchat, *arguments),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        state = tmp_path / "killed.unfinished" / "state.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        # Some moment of it: while it starts, or up to half a second after a checkpoint.
        deadline = time.monotonic() + chance.uniform(0.5, 20)
        while time.monotonic() < deadline and process.poll() is None:
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(chance.uniform(0, 0.5))
                break
            time.sleep(0.01)
        if process.poll() is not None:  # it came to its end: begin once more
            _, errors = process.communicate()
            assert process.returncode == 0, errors.decode()
            begin_again()
            continue
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=True)
        with_progress += b"resuming after" in process.communicate()[1]
        kills += 1
        if Path(f"{prefix}.idx").exists() and not state.parent.exists():
            begin_again()  # killed when all was done
    arguments = ["--workers", "2"]
    last = subprocess.run(
        command(conversations, prefix, chitchat, *arguments),
        capture_output=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    assert b"4,048 records (openai) = 4,008 documents + 40 rejects" in last.stdout
    assert with_progress >= KILLS // 4
    assert list(tmp_path.glob(".*")) == []
    assert contents(prefix) == contents(whole)
    assert not list(tmp_path.glob("*.unfinished"))


def mounted(mount_options: str, script: str, folder: Path, *arguments: str):
    """Run a shell script where a folder is a file system of its own, which only it sees."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    mount = f"mount -t tmpfs -o {mount_options} none {folder}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {script}", "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


@pytest.mark.slow
def test_a_full_disk_gives_a_sentence_and_room_lets_the_run_go_on(
    some_conversations, chitchat, tmp_path
):
    folder = tmp_path / "small"
    folder.mkdir()
    run = command(some_conversations, folder / "corpus", chitchat, "--checkpoint-seconds", "0")
    show = f'ls {folder}; mount -o remount,size=100m {folder}; "$@" || exit; ls {folder}'
    process = mounted("size=1m", f'"$@" && exit; {show}', folder, *run)
    assert process.returncode == 0, process.stderr
    full, _, after = process.stderr.partition("resuming after ")
    # A slow machine says how far it is, too.
    (line,) = (line for line in full.splitlines() if not line.startswith("tokenizing "))
    assert line.startswith("megatron-packing: error: the disk is full (No space left on device)")
    assert "run the same command again to resume" in line
    assert int(after.split()[0].replace(",", "")) > 100
    first, *made = process.stdout.splitlines()
    assert first == "corpus.unfinished"  # and nothing that would be taken for a corpus
    assert {"corpus.bin", "corpus.idx", "corpus_loss_mask.idx"} < set(made)
    assert "corpus.unfinished" not in made


def test_a_folder_that_cannot_be_written_to_gives_a_sentence(few_conversations, chitchat, tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    run = command(few_conversations, folder / "corpus", chitchat)
    process = mounted("ro", '"$@"', folder, *run)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert "corpus cannot be written (Read-only file system: " in line
    assert "choose another --output-prefix" in line
