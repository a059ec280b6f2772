# SPDX-License-Identifier: Apache-2.0
"""Names are given without overwriting, and a set of files as a whole."""

from __future__ import annotations

import errno
import os

import pytest

from megatron_packing.files import publication
from megatron_packing.files.publication import publish_files, rename_new, undo_half


@pytest.fixture(params=["renameat2", "link", "plain"])
def way(request, monkeypatch):
    """Each way of renaming, as where the file system has no better one."""
    if request.param != "renameat2":
        monkeypatch.setattr(publication, "_rename_noreplace", lambda *_: False)
    if request.param == "plain":

        def unsupported(*_):
            raise OSError(errno.EPERM, "no hard links")

        monkeypatch.setattr(os, "link", unsupported)
    return request.param


@pytest.mark.usefixtures("way")
def test_a_file_gets_a_free_name_and_no_other(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")
    target.unlink()
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    target.unlink()
    rename_new(source, target)
    assert (source.exists(), target.read_text()) == (False, "new")


@pytest.mark.usefixtures("way")
def test_a_folder_does_not_replace_an_empty_one(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").touch()
    target.mkdir()
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    target.rmdir()
    rename_new(source, target)
    assert [path.name for path in target.iterdir()] == ["file"]
    assert not source.exists()


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "source", tmp_path / "target")


@pytest.fixture
def unpublished(tmp_path):
    """A folder with three files, and their places."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(f"new {name}")
    return folder, [tmp_path / name for name in "abc"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("taken", range(3))
def test_a_set_is_published_whole_or_not_at_all(unpublished, taken):
    folder, targets = unpublished
    targets[taken].write_text("old")
    with pytest.raises(FileExistsError):
        publish_files(folder, targets)
    assert [target.exists() for target in targets] == [i == taken for i in range(3)]
    assert targets[taken].read_text() == "old"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("done", range(4))
def test_a_stopped_one_is_undone_and_a_finished_one_stays(unpublished, monkeypatch, done):
    folder, targets = unpublished
    count = 0

    class KilledError(BaseException):
        pass

    def killed(source, target):
        nonlocal count
        if count == done:
            raise KilledError
        count += 1
        rename_new(source, target)

    monkeypatch.setattr(publication, "rename_new", killed)
    monkeypatch.setattr(publication, "undo_half", lambda _: None)  # the process is gone
    try:
        publish_files(folder, targets)
    except KilledError:
        assert done < 3
    assert [target.exists() for target in targets] == [i < done for i in range(3)]
    undo_half(folder)
    assert [target.exists() for target in targets] == [done == 3] * 3


def test_what_another_wrote_in_the_meantime_is_not_undone(unpublished, monkeypatch):
    folder, targets = unpublished
    monkeypatch.setattr(publication, "undo_half", lambda _: None)
    targets[2].write_text("other")
    with pytest.raises(FileExistsError):
        publish_files(folder, targets)
    targets[0].unlink()
    targets[0].write_text("other")
    undo_half(folder)
    assert [target.exists() for target in targets] == [True, False, True]
    (folder / publication.NOTE).write_text("{")
    undo_half(folder)  # a note that was cut short: nothing had been renamed
    assert targets[0].read_text() == "other"
