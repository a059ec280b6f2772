# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, one writer at a time, and files that show late."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files import whole
from megatron_packing.files.whole import (
    new_folder,
    open_patiently,
    prefix_lock,
    temporary_sibling,
    write_whole,
    writing,
)
from tests.limits import TIME_LIMIT

HOLD = """
import sys, time
from pathlib import Path
from megatron_packing.files.whole import prefix_lock, temporary_sibling
with {what}(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


def holder(what, path):
    """Start a process that is inside the block, and wait until it is."""
    program = HOLD.format(what=what)
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline()
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_leftovers_of_killed_processes_are_removed_and_those_of_live_ones_stay(tmp_path):
    path = tmp_path / "index"
    killed, alive = holder("temporary_sibling", path), holder("temporary_sibling", path)
    try:
        kill(killed)
        assert len(list(tmp_path.iterdir())) == 2
        with temporary_sibling(tmp_path / "index.other"):
            assert len(list(tmp_path.iterdir())) == 3  # of another name: stays
        with temporary_sibling(path) as folder:
            assert len(list(tmp_path.iterdir())) == 2
            assert folder in tmp_path.iterdir()
        (of_alive,) = tmp_path.iterdir()
    finally:
        kill(alive)
    assert of_alive.exists()
    with pytest.raises(InputError, match="exists already"), new_folder(path):
        path.mkdir()
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_is_taken_is_refused_and_its_leftovers_go(tmp_path):
    path = tmp_path / "index"
    kill(holder("temporary_sibling", path))
    path.symlink_to("nowhere")
    with pytest.raises(InputError, match="index exists already"), new_folder(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_another_machine_goes_after_a_day(tmp_path, monkeypatch):
    path = tmp_path / "index"
    monkeypatch.setattr(whole, "_machine", lambda: "0123abcd")
    other = whole._locked_folder(path)
    os.close(other[1])
    (other[0] / "array").touch()
    monkeypatch.undo()
    with temporary_sibling(path):
        pass
    assert other[0].exists()
    yesterday = time.time() - 2 * 24 * 3600
    for changed in (*other[0].iterdir(), other[0]):
        os.utime(changed, (yesterday, yesterday))
    with temporary_sibling(path):
        pass
    assert not other[0].exists()


def test_very_long_names_have_siblings_too(tmp_path):
    with temporary_sibling(tmp_path / ("é" * 120)) as folder:
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_a_prefix_has_one_writer_and_a_killed_one_does_not_block_it(tmp_path):
    prefix = tmp_path / "corpus"
    other = holder("prefix_lock", prefix)
    try:
        with (
            pytest.raises(InputError, match=r"another process is writing .*corpus"),
            prefix_lock(prefix),
        ):
            pass
    finally:
        kill(other)
    assert list(tmp_path.iterdir()) == [tmp_path / ".corpus.lock"]
    with prefix_lock(prefix), pytest.raises(InputError), prefix_lock(prefix):
        pass
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(InputError, match="has no file locks"), prefix_lock(tmp_path / "corpus"):
        pass
    with new_folder(tmp_path / "index"):
        pass
    assert (tmp_path / "index").is_dir()


def test_threads_take_and_give_the_lock_and_none_meet(tmp_path):
    inside, met = [], []

    def work():
        had = 0
        while had < 20:
            try:
                with prefix_lock(tmp_path / "corpus"):
                    inside.append(1)
                    met.append(len(inside))
                    inside.pop()
                    had += 1
            except InputError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(met) == 8 * 20
    assert max(met) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("1500000 requested and 53216 written"), "disk is full or a quota .*1500000 req"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full .*No space left"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), r"Read-only file system: /x\)"),
    ],
)
def test_errors_of_the_device_name_the_file_and_the_cause(tmp_path, error, message):
    with (
        pytest.raises(InputError, match=f"index cannot be written.*{message}"),
        new_folder(tmp_path / "index"),
    ):
        raise error
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="I/O"), writing(tmp_path):
        raise OSError(errno.EIO, "I/O")


def test_devices_and_links_are_written_through(tmp_path):
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    write_whole(pipe, "text")
    assert reader.communicate(timeout=TIME_LIMIT)[0] == b"text"
    assert pipe.is_fifo()
    link.symlink_to(file)
    write_whole(link, "text")
    assert link.is_symlink()
    assert file.read_text() == "text"
    before = file.stat().st_ino
    write_whole(link, "more")
    assert (file.read_text(), file.stat().st_ino != before) == ("more", True)
    write_whole(tmp_path / ".." / tmp_path.name / "file", "again")
    assert file.read_text() == "again"
    with file.open("w") as opened:  # as a shell's redirection
        program = "import sys; from pathlib import Path; from megatron_packing.files.whole import *"
        program += "; write_whole(Path('/dev/stdout'), 'out')"
        subprocess.run(
            [sys.executable, "-c", program], stdout=opened, check=True, timeout=TIME_LIMIT
        )
    assert file.read_text() == "out"


def opener_of(path):
    def read() -> str:
        if not path.exists():
            raise UnreadableError(f"{path} does not exist")
        return path.read_text()

    return read


def test_a_file_that_shows_late_is_opened_and_waiting_is_said_once(tmp_path):
    path, said = tmp_path / "folder" / "file", []

    def write() -> None:
        time.sleep(0.5)
        path.parent.mkdir()
        path.write_text("whole")

    writer = threading.Thread(target=write)
    writer.start()
    assert open_patiently(opener_of(path), path.parent, 30, said.append) == "whole"
    writer.join()
    assert said == [f"{path} does not exist"]


def test_one_that_never_shows_is_named_with_the_machine_that_looked(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(UnreadableError, match=rf"\(on {socket.gethostname()}, after") as caught:
        open_patiently(opener_of(path), tmp_path, 0.3)
    assert str(caught.value).startswith(f"{path} does not exist")


def test_without_patience_it_is_tried_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(UnreadableError, match=r"file does not exist$"):
        open_patiently(opener_of(tmp_path / "file"), tmp_path, 0)
    assert time.monotonic() - started < 5


def test_what_time_does_not_mend_is_raised_at_once(tmp_path):
    calls = []

    def opener() -> None:
        calls.append(1)
        raise InputError("of another corpus")

    with pytest.raises(InputError, match="of another corpus"):
        open_patiently(opener, tmp_path, 30)
    assert len(calls) == 1
