"""What remains when a run is killed, or the disk is full."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from megatron_packing.prepare.tokenize import TokenizeOptions, tokenize

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json", "_rejects.jsonl")


def command(path: Path, prefix: Path, chitchat: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "megatron_packing.cli", "tokenize", str(path)),
        *("--output-prefix", str(prefix), "--tokenizer", str(chitchat / "tokenizer")),
        *("--on-bad-record", "skip", *more),
    ]


def contents(prefix: Path) -> dict[str, bytes]:
    return {ending: Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS}


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
@pytest.mark.timeout(600)
def test_a_run_killed_20_times_ends_with_the_bytes_of_one_left_alone(
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
    while kills < 20:
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
        with_progress += b"going on after" in process.communicate()[1]
        kills += 1
        if Path(f"{prefix}.idx").exists() and not state.parent.exists():
            begin_again()  # killed when all was done
    arguments = ["--workers", "2"]
    last = subprocess.run(
        command(conversations, prefix, chitchat, *arguments),
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert b"4,048 records (openai) = 4,008 documents + 40 rejects" in last.stdout
    assert with_progress >= 5
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
        timeout=120,
        check=False,
    )


def test_a_full_disk_gives_a_sentence_and_room_lets_the_run_go_on(
    conversations, chitchat, tmp_path
):
    folder = tmp_path / "small"
    folder.mkdir()
    run = command(conversations, folder / "corpus", chitchat, "--checkpoint-seconds", "0")
    show = f'ls {folder}; mount -o remount,size=100m {folder}; "$@" || exit; ls {folder}'
    process = mounted("size=4m", f'"$@" && exit; {show}', folder, *run)
    assert process.returncode == 0, process.stderr
    full, _, after = process.stderr.partition("going on after ")
    (line,) = full.strip().splitlines()
    assert line.startswith("megatron-packing: error: the disk is full (No space left on device)")
    assert "run the same command again, it goes on where it stopped" in line
    assert int(after.split()[0].replace(",", "")) > 100
    first, *made = process.stdout.splitlines()
    assert first == "corpus.unfinished"  # and nothing that would be taken for a corpus
    assert {"corpus.bin", "corpus.idx", "corpus_loss_mask.idx"} < set(made)
    assert "corpus.unfinished" not in made


def test_a_folder_that_cannot_be_written_to_gives_a_sentence(conversations, chitchat, tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    run = command(conversations, folder / "corpus", chitchat)
    process = mounted("ro", '"$@"', folder, *run)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert "corpus cannot be written (Read-only file system: " in line
    assert "choose another --output-prefix" in line
