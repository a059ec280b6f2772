# SPDX-License-Identifier: Apache-2.0
"""Files that a user names: what keeps one from being read is said, and no descriptor stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular

DESCRIPTORS = Path("/proc/self/fd")
CAUSES = {
    errno.ENOENT: (UnreadableError, r"data does not exist$"),
    errno.ESTALE: (UnreadableError, r"data was replaced or removed on its file server after this"),
    errno.EIO: (UnreadableError, r"data is missing \(.*Input/output error"),
    errno.EACCES: (
        InputError,
        r"data cannot be opened \(Permission denied\): this process runs as user \d+, the file is "
        r"of user \d+ with mode 640; let this user read it",
    ),
    errno.EMFILE: (InputError, r"data .* may open only \d+ files at a time; .* ulimit -n"),
    errno.ENAMETOOLONG: (InputError, r"data cannot be opened \(File name too long\)"),
}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(np.arange(10_000, dtype="<i4").tobytes())
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("cause", CAUSES, ids=errno.errorcode.get)
def test_each_cause_has_a_sentence(data, monkeypatch, cause):
    def refuse(*_, **__):
        raise OSError(cause, os.strerror(cause), str(data))

    monkeypatch.setattr(os, "open", refuse)
    kind, message = CAUSES[cause]
    with pytest.raises(InputError, match=message) as raised:
        open_regular(data)
    assert type(raised.value) is kind  # only what may be there later is tried again


def test_a_map_needs_no_descriptor_and_cannot_be_written(data):
    before = list(DESCRIPTORS.iterdir())
    with open_regular(data) as file:
        array = map_array(data, file, "<i4", 4 * 5000, 4000)
    assert len(list(DESCRIPTORS.iterdir())) == len(before)
    data.unlink()
    assert array.tolist() == list(range(5000, 9000))
    view = array[10:20]
    del array
    assert view.tolist() == list(range(5010, 5020))  # a part keeps the map
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    assert str(data) in maps()
    del view
    assert str(data) not in maps()


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def test_a_file_that_is_cut_off_is_not_mapped(data):
    with open_regular(data) as file, pytest.raises(UnreadableError, match=r"40000 of 40004 bytes"):
        map_array(data, file, "<i4", 0, 10_001)


@pytest.mark.parametrize("looks_first", [True, False])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, looks_first):
    (tmp_path / "data").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("data")
    os.mkfifo(tmp_path / "pipe")
    for name in ("data", "link"):
        with open_regular(tmp_path / name, looks_first=looks_first) as file:
            assert file.read() == b"1"
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(InputError, match=f"{name} is {kind}, not a regular file"):
            open_regular(tmp_path / name, looks_first=looks_first)
