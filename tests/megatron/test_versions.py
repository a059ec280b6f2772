# SPDX-License-Identifier: Apache-2.0
"""What is said where another megatron-core than the tested ones is installed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("megatron.core")

import megatron.core

from megatron_packing.errors import InputError
from megatron_packing.megatron import versions
from megatron_packing.megatron.config import PackedDatasetConfig
from tests.conftest import ROOT, write_corpus
from tests.megatron.test_dataset import null_tokenizer
from tests.trainer import PRETRAIN_PACKED, ROW, needs_trainer, train

TOKENIZER = null_tokenizer()
WHEELS = "MEGATRON_CORE_WHEELS"


@pytest.fixture
def installed(monkeypatch):
    """Makes megatron-core look like another version."""

    def install(version: str) -> None:
        monkeypatch.setattr(megatron.core, "__version__", version)
        versions.warn_if_older_than_tested.cache_clear()

    yield install
    versions.warn_if_older_than_tested.cache_clear()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.19.2", (0, 19)),
        ("0.20.0+git", (0, 20)),
        ("0.19rc1", (0, 19)),
        ("0.16.0rc0", (0, 16)),
        ("1.0.0.dev3", (1, 0)),
    ],
)
def test_two_numbers_are_read_from_the_version_of_a_release_a_candidate_or_a_build(
    installed, version, expected
):
    installed(version)
    assert versions.core_version() == expected


def test_a_version_without_numbers_is_refused_and_not_taken_for_an_old_one(installed):
    installed("main")
    with pytest.raises(InputError, match=r"version of megatron-core is 'main'.*such as 0\.19\.2"):
        versions.core_version()
    with pytest.raises(SystemExit, match=r"^error: the version of megatron-core is 'main'"):
        versions.require_trainer()


@pytest.mark.parametrize("version", ["0.16.0rc0", "0.16.1", "0.17.1", "0.18.2"])
def test_scripts_end_with_one_sentence_under_a_trainer_older_than_theirs(installed, version):
    installed(version)
    with pytest.raises(SystemExit) as end:
        versions.require_trainer()
    assert str(end.value) == (
        f"error: megatron-core {version} is installed, but this script calls pretrain() as "
        f"megatron-core 0.19 defines it: install megatron-core 0.19.2; with 0.16.1, 0.17.1, 0.18.2 "
        f"you can use the dataset, batches, loss and attention of megatron_packing in your own "
        f"training loop"
    )


@needs_trainer
@pytest.mark.parametrize("version", ["0.19.0", "0.19.2", "0.19rc1", "0.20.0+git"])
def test_scripts_go_on_under_the_tested_trainer_and_later_ones(installed, version):
    installed(version)
    versions.require_trainer()


def test_scripts_end_with_one_sentence_where_megatron_core_has_no_trainer(installed, monkeypatch):
    installed("0.19.2")
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"^error: megatron-core 0\.19\.2 .* without megatron"):
        versions.require_trainer()


@pytest.mark.parametrize("version", ["0.16.1", "0.18.2"])
def test_models_are_built_of_flags_by_the_trainers_of_0_19_and_later_alone(installed, version):
    installed(version)
    wanted = rf"as Megatron's trainer does, but megatron-core {version} is installed"
    with pytest.raises(InputError, match=wanted):
        versions.require_model_builders()


@pytest.mark.parametrize("version", ["0.18.2", "0.20.0+git", "1.19.0"])
def test_a_trainer_that_was_not_tested_is_named_in_one_line(installed, version):
    installed(version)
    line = versions.describe_untested_trainer()
    assert line.startswith(f"> warning: megatron-core is {version}, ")
    assert "tested with 0.19.2" in line
    assert "\n" not in line


@pytest.mark.parametrize("version", ["0.19.0", "0.19.2", "0.19.2+site1"])
def test_nothing_is_said_of_the_tested_trainer(installed, version):
    installed(version)
    assert versions.describe_untested_trainer() is None


def configure() -> None:
    PackedDatasetConfig(
        random_seed=1,
        sequence_length=ROW,
        split="1,0,0",
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=TOKENIZER,
    )


@pytest.mark.parametrize("version", ["0.15.3", "0.16.0rc0", "0.16.0"])
def test_a_core_older_than_all_tested_is_warned_of_once_where_a_dataset_is_configured(
    installed, caplog, version
):
    installed(version)
    with caplog.at_level(logging.WARNING, "megatron_packing"):
        configure()
        configure()
    (line,) = [each.getMessage() for each in caplog.records if each.name == versions.__name__]
    assert line.startswith(f"megatron-core is {version}, but packed rows were tested with 0.16.1 ")
    assert "use one of 0.16.1, 0.17.1, 0.18.2, 0.19.2" in line


@pytest.mark.parametrize("version", ["0.16.1", "0.18.2", "0.20.0+git"])
def test_nothing_is_said_of_a_core_that_is_not_older(installed, caplog, version):
    installed(version)
    with caplog.at_level(logging.WARNING, "megatron_packing"):
        configure()
    assert [each for each in caplog.records if each.name == versions.__name__] == []


@needs_trainer
@pytest.mark.slow
def test_a_run_under_a_version_that_was_not_tested_trains_and_says_so_once(tmp_path):
    script = tmp_path / "pretrain_newer.py"
    script.write_text(
        "import runpy\nimport megatron.core\nmegatron.core.__version__ = '0.20.0+git'\n"
        f"runpy.run_path({str(PRETRAIN_PACKED)!r}, run_name='__main__')\n"
    )
    corpus = write_corpus(tmp_path / "corpus", [30, 50, 20, 100] * 5)
    run = train(f"--data-path {corpus.prefix} --train-iters 1", script=script)
    assert len(run.steps) == 1
    assert run.output.count("> warning: megatron-core is 0.20.0+git, ") == 1


def wheels() -> list[Path]:
    """Folders with an older megatron-core each, as ``pip install --no-deps --target`` makes."""
    return [Path(name) for name in os.environ.get(WHEELS, "").split(os.pathsep) if name]


@pytest.mark.parametrize("folder", wheels() or [None], ids=lambda folder: folder and folder.name)
def test_the_example_ends_with_one_sentence_under_real_older_wheels(folder):
    if folder is None:
        pytest.skip(f"{WHEELS} names no folders with an older megatron-core each")
    (found,) = folder.glob("megatron_core-*.dist-info")
    version = found.name.removeprefix("megatron_core-").removesuffix(".dist-info")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", PRETRAIN_PACKED],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: megatron-core {version} is installed, but this script calls ")
    assert "Traceback" not in run.stderr
