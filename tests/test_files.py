"""Files that show late."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files import open_patiently


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
    with pytest.raises(UnreadableError, match=f"as {socket.gethostname()} sees it") as caught:
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
