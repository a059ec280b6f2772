# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/gpu does, as far as a machine without a GPU can tell."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.limits import TIME_LIMIT
from tests.trainer import needs_trainer

GPU = ROOT / "benchmarks" / "gpu"
RESULTS = GPU / "results"


@pytest.fixture
def gpu_scripts(monkeypatch):
    """The folder on the path, as for a script in it."""
    monkeypatch.syspath_prepend(GPU)


def container(*codes: tuple[int, bytes]) -> bytes:
    """A container of machine code as nvcc puts it into a library: (architecture, code) each."""
    entries = b""
    for architecture, code in codes:
        header = bytearray(64)
        struct.pack_into("<HHIQ", header, 0, 2, 0x101, 64, len(code))
        struct.pack_into("<I", header, 0x1C, architecture)
        entries += bytes(header) + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


@pytest.mark.usefixtures("gpu_scripts")
def test_a_slim_wheel_keeps_the_code_of_one_architecture_and_a_true_record(tmp_path):
    from slim import slim_wheel

    kept, other = b"code of 90" * 50, b"code of 100" * 50
    gap, none = bytes(11), bytes(len(other))
    library = b"ELF" + container((100, other), (90, kept)) + gap + container((80, kept))
    expected = b"ELF" + container((100, none), (90, kept)) + gap + container((80, bytes(len(kept))))
    name = "transformer_engine/wheel_lib/libtransformer_engine.so"
    record = f"{name},sha256=old,3\r\nx.dist-info/RECORD,,\r\n"
    with zipfile.ZipFile(tmp_path / "full.whl", "w") as wheel:
        wheel.writestr(name, library)
        wheel.writestr("x.dist-info/RECORD", record)
    figures = slim_wheel(tmp_path / "full.whl", tmp_path / "slim.whl", 90)
    assert figures == (len(kept), len(other) + len(kept))
    with zipfile.ZipFile(tmp_path / "slim.whl") as wheel:
        slim = wheel.read(name)
        lines = dict(csv_rows(wheel.read("x.dist-info/RECORD").decode()))
    assert slim == expected
    digest = base64.urlsafe_b64encode(hashlib.sha256(slim).digest()).rstrip(b"=").decode()
    assert lines[name] == f"sha256={digest}"


def csv_rows(text: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in csv.reader(io.StringIO(text)) if row]


@pytest.mark.usefixtures("gpu_scripts")
def test_a_library_without_the_architecture_is_refused():
    from slim import keep_architecture

    with pytest.raises(ValueError, match="no code of architecture 90"):
        keep_architecture(bytearray(container((80, b"x" * 8))), 90)


@pytest.mark.usefixtures("gpu_scripts")
def test_a_file_that_is_not_the_listed_one_is_named(tmp_path):
    from bring import Listed, check, read_list

    listed = read_list()
    assert {wheel.requirement.partition("==")[0] for wheel in listed} >= {
        "megatron-core",
        "transformer-engine-cu13",
        "transformer-engine-torch",
    }
    assert all(re.fullmatch("[0-9a-f]{64}", wheel.sha256) for wheel in listed)
    path = tmp_path / "x.whl"
    path.write_bytes(b"abc")
    check(Listed("x==1", "x.whl", 3, hashlib.sha256(b"abc").hexdigest()), path)
    with pytest.raises(SystemExit, match=r"x\.whl has 3 bytes and SHA-256 .* remove the file"):
        check(Listed("x==1", "x.whl", 4, hashlib.sha256(b"abc").hexdigest()), path)


@pytest.mark.usefixtures("gpu_scripts")
def test_a_large_file_is_cut_and_put_together(tmp_path, monkeypatch):
    import bring
    import measure

    with zipfile.ZipFile(tmp_path / "large-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("large.py", "there = True\n" * 30)
        metadata = "Metadata-Version: 2.1\nName: large\nVersion: 1\n"
        wheel.writestr("large-1.dist-info/METADATA", metadata)
        wheel.writestr("large-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("large-1.dist-info/RECORD", "")
    monkeypatch.setattr(bring, "PIECE", 300)
    bring.cut(tmp_path / "large-1-py3-none-any.whl")
    assert len(list(tmp_path.glob("*.piece*"))) > 2
    assert not list(tmp_path.glob("*.whl"))
    joined = measure.join(tmp_path, tmp_path)
    assert [path.name for path in joined] == ["large-1-py3-none-any.whl"]
    assert zipfile.ZipFile(joined[0]).testzip() is None


@pytest.mark.usefixtures("gpu_scripts")
def test_every_stage_has_a_function():
    """Without importing the modules: they need Megatron."""
    from stages import STAGES

    for name, stage in STAGES.items():
        module, function = stage.function.split(":")
        assert f"def {function}(ground: Ground) -> None:" in (GPU / f"{module}.py").read_text(), (
            name
        )


@pytest.mark.parametrize("card", ["h100", "h200"])
def test_the_page_has_the_figures_of_the_committed_runs(card):
    page = (ROOT / "docs" / "gpu.md").read_text()
    command = [sys.executable, GPU / "report.py", RESULTS / card, "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert [line for line in rows if line not in page] == []


@pytest.mark.slow
@needs_trainer
@pytest.mark.usefixtures("gpu_scripts")
def test_the_dry_run_takes_every_stage(tmp_path, chitchat, few_conversations):
    brought, out = tmp_path / "brought", tmp_path / "out"
    (brought / "chitchat").mkdir(parents=True)
    shutil.copytree(chitchat / "tokenizer", brought / "chitchat" / "tokenizer")
    words = ["tokenize", few_conversations, "--output-prefix", brought / "chitchat" / "corpus"]
    words += ["--tokenizer", brought / "chitchat" / "tokenizer"]
    subprocess.run([sys.executable, "-m", "megatron_packing.cli", *map(str, words)], check=True)
    np.save(brought / "some.npy", np.random.default_rng(0).integers(2, 600, 300))
    command = [sys.executable, GPU / "measure.py", "--brought", brought, "--out", out, "--dry-run"]
    command += ["--minutes", TIME_LIMIT // 60 - 1]  # it ends what it started
    printed = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, timeout=TIME_LIMIT
    ).stdout
    found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert {name: result.get("error") for name, result in found.items() if not result["ok"]} == {}
    from stages import STAGES

    assert set(found) == STAGES.keys()
    assert found["attention"]["kernels"]["fused"]["largest_error"] < 1e-5
    assert found["model"]["leaking_gradient"] > 0.01 > found["model"]["gradient"]
    assert found["model"]["leaking_bits_changed"] > 0 == found["model"]["bits_changed"]
    assert {setting["corpus"] for setting in found["rows"]["settings"]} == {"chitchat", "some"}
    assert "rows of 256" in printed
