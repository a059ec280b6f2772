# SPDX-License-Identifier: Apache-2.0
"""What is left when pack, export or import is killed, and when many write one thing at once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("pyarrow")

from megatron_packing import Corpus, PackIndex
from megatron_packing.cli import main
from megatron_packing.errors import InputError
from megatron_packing.files.whole import prefix_lock
from megatron_packing.index.verify import verify_pack_index
from tests.conftest import write_corpus
from tests.ranks import RankServer

COMMAND = [sys.executable, "-m", "megatron_packing.cli"]


@pytest.fixture(scope="module")
def run_killed() -> Iterator[Callable[[int, list[str]], int]]:
    """Runs a command that ends at the n-th call which changes names; gives its exit status."""
    server = RankServer(Path(__file__).with_name("killed_server.py"), environment={})

    def run(number: int, words: list[str]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            answer = server.ask(
                argv=words,
                killed_at=number,
                ranks=1,
                folder=folder,
                outputs=["output", "errors"],
                environment={},
                kill_after=None,
                timeout=TIME_LIMIT,
            )
            (status,) = answer["statuses"]
            errors = (Path(folder) / "errors.0").read_text()
        assert not answer["timed_out"]
        assert status in (0, -signal.SIGKILL), errors
        return status

    yield run
    server.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A corpus, its index and the index's export."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "corpus", np.random.default_rng(0).integers(2, 60, 300))
    words = ["pack", str(folder / "corpus"), "--sequence-length", "64"]
    assert main([*words, "--output", str(folder / "packs")]) == 0
    words = ["export", str(folder / "packs"), "--format", "nemo-npy", "--end-token", "300"]
    assert main([*words, "--output", str(folder / "exported")]) == 0
    return folder


def command(verb: str, made: Path, folder: Path) -> tuple[list[str], Path]:
    """A command that writes into the folder, and what makes its result visible."""
    if verb == "pack":
        words = ["pack", made / "corpus", "--sequence-length", 64, "--output", folder / "new"]
        return [*map(str, words)], folder / "new"
    if verb == "export":
        words = ["export", made / "packs", "--format", "bridge-parquet", "--end-token", 300]
        return [*map(str, words), "--output", str(folder / "new")], folder / "new"
    words = ["import", made / "exported", "--output-prefix", folder / "new"]
    return [*map(str, words)], folder / "new.idx"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_after_a_kill(verb: str, made: Path, folder: Path, whole: dict[str, bytes]) -> str:
    """Whole or not there; the next run ends well or says that it is there; nothing is left."""
    words, visible = command(verb, made, folder)
    was_there = visible.exists()
    if was_there:
        found = {name: data for name, data in contents(folder).items() if name[0] != "."}
        assert found == whole, "a result that can be seen is whole"
    status = main(words)
    assert status == (1 if was_there else 0)
    assert contents(folder) == whole
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return "whole" if was_there else "nothing"


def whole_result(verb: str, made: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    assert main(command(verb, made, folder)[0]) == 0
    return contents(folder)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pack", "export", "import"])
def test_killed_at_each_change_of_a_name(verb, made, run_killed, tmp_path, capsys):
    whole = whole_result(verb, made, tmp_path / "whole")
    states: Counter[str] = Counter()
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        words, _ = command(verb, made, folder)
        if run_killed(number, words) == 0:
            break
        states[check_after_a_kill(verb, made, folder, whole)] += 1
    assert states["whole"] >= 1
    assert states["nothing"] >= 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", ["pack", "export", "import"])
def test_killed_at_random(verb, made, tmp_path):
    """4 times each; MEGATRON_PACKING_KILLS=100 for more."""
    whole = whole_result(verb, made, tmp_path / "whole")
    chance = random.Random(3)
    kills = int(os.environ.get("MEGATRON_PACKING_KILLS", "4"))
    began = time.monotonic()
    subprocess.run([*COMMAND, "--version"], check=True, capture_output=True, timeout=TIME_LIMIT)
    start = time.monotonic() - began
    number = done = 0
    while done < kills:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        words, _ = command(verb, made, folder)
        process = subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + TIME_LIMIT
        if number % 4:  # from the moment on that it writes
            while not any(folder.iterdir()) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.02 if number % 2 else 0.2))
        else:
            time.sleep(chance.uniform(0, 2 * start))
        process.kill()
        done += process.wait() == -signal.SIGKILL
        check_after_a_kill(verb, made, folder, whole)


def run_together(commands: list[list[str]]) -> list[tuple[int, str]]:
    """Exit status and errors of commands that run at once."""
    processes = [
        subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    errors = [process.communicate(timeout=TIME_LIMIT)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]


@pytest.mark.slow
def test_of_imports_to_one_prefix_one_ends_well(made, tmp_path):
    whole = whole_result("import", made, tmp_path / "whole")
    folder = tmp_path / "together"
    folder.mkdir()
    ends = run_together([command("import", made, folder)[0]] * 4)
    assert sorted(status for status, _ in ends) == [0, 1, 1, 1]
    assert all("another process is" in text or "exists already" in text for s, text in ends if s)
    assert contents(folder) == whole


READER = """
import sys, time
from pathlib import Path
from megatron_packing import Corpus, PackIndex
from megatron_packing.errors import InputError
from megatron_packing.index.verify import verify_pack_index
index, prefix, corpus = map(Path, sys.argv[1:4])
deadline = time.monotonic() + float(sys.argv[4])
done = set()
while len(done) < 2:
    assert time.monotonic() < deadline
    try:
        if "index" not in done:
            packs = PackIndex.open(index)
            verify_pack_index(packs, Corpus(corpus).num_tokens)
            done.add("index")
        imported = Corpus(prefix)
        assert imported.has_loss_mask
        assert len(imported) == 300
        done.add("corpus")
    except InputError as error:
        assert "there is no" in str(error) or "does not exist" in str(error), error
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writers", "readers"),
    [(2, 2), (8, 16)],
)
def test_many_writers_and_readers_at_once(made, tmp_path, writers, readers):
    """Readers see nothing or the whole; of writers one ends well."""
    names = [tmp_path / "new", tmp_path / "new2", made / "corpus"]
    words = [sys.executable, "-c", READER, *map(str, names), str(TIME_LIMIT)]
    reading = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(readers)]
    packing = command("pack", made, tmp_path)[0]
    importing = [*command("import", made, tmp_path)[0][:-1], str(names[1])]
    ends = run_together([packing] * writers + [importing] * writers)
    for verb in (ends[:writers], ends[writers:]):
        assert sorted(status for status, _ in verb) == [0] + [1] * (writers - 1), verb
    for process in reading:
        _, errors = process.communicate(timeout=TIME_LIMIT)
        assert process.returncode == 0, errors
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    verify_pack_index(PackIndex.open(names[0]), Corpus(names[2]).num_tokens)


def test_import_waits_for_no_tokenize_and_overwrites_none(made, tmp_path, capsys):
    words, _ = command("import", made, tmp_path)
    with prefix_lock(tmp_path / "new"):
        assert main(words) == 1
        assert "another process is writing" in capsys.readouterr().err
    (tmp_path / "new.unfinished").mkdir()
    assert main(words) == 1
    assert "new.unfinished holds an unfinished tokenize run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new.unfinished"]


def test_a_corpus_that_appears_while_import_works_stays(made, tmp_path, monkeypatch):
    from megatron_packing.interchange import import_packed

    def describe(_):
        (tmp_path / "new_corpus.json").write_text("other")
        return {}

    monkeypatch.setattr(import_packed, "_describe", describe)
    with pytest.raises(InputError, match=r"new_corpus\.json exists already"):
        import_packed.import_packed([made / "exported"], tmp_path / "new")
    assert contents(tmp_path) == {"new_corpus.json": b"other"}
