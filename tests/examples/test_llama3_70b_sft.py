# SPDX-License-Identifier: Apache-2.0
"""The scripts of examples/llama3_70b_sft say what Megatron understands, and train."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import EXAMPLES, chat_like_lengths, write_corpus
from tests.limits import TIME_LIMIT
from tests.trainer import needs_trainer, run_script

pytestmark = needs_trainer

FOLDER = EXAMPLES / "llama3_70b_sft"
PARSER = Path(__file__).with_name("parse_commands.py")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # as train.sh sets it
    "OMP_NUM_THREADS": "1",
    "TOKENIZER": "a/tokenizer",
    "SAVE": "a/folder",
}


STEPS = {"STEPS": 100, "EVAL_STEPS": 3, "INITIAL": "a/checkpoint"}
OPTIMIZER_FLAGS = (  # of the larger sizes
    "--use-distributed-optimizer",
    "--overlap-grad-reduce",
    "--overlap-param-gather",
)


def words_of(script: str = "train.sh", **settings: object) -> list[str]:
    """The command that a script would run."""
    environment = {name: str(value) for name, value in settings.items()}
    process = subprocess.run(
        [FOLDER / script],
        env={**ENVIRONMENT, "PRINT": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def flags_in(words: list[str]) -> list[str]:
    """Those of Megatron, which come after the program."""
    return words[max(i for i, word in enumerate(words) if word.endswith(".py")) + 1 :]


def settings_in_readme() -> list[dict[str, str]]:
    """The table of layouts."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\d+B) \| (.*) \|$", text, re.MULTILINE)
    names = ("size", "row", "tensor", "pipeline", "context", "gpus", "batch", "recompute")
    table = [(size, *rest.replace(",", "").split(" | ")) for size, rest in lines]
    return [dict(zip(names, line, strict=True)) for line in table]


@pytest.mark.slow
def test_every_layout_of_the_readme_passes_megatrons_parser_and_checks(tmp_path):
    """With as many ranks as the table says, and with twice as many."""
    table, commands = settings_in_readme(), []
    assert len(table) == 9
    for line in table:
        words = words_of(SIZE=line["size"].lower(), ROW=line["row"], **STEPS)
        nodes = int(line["gpus"]) // 8
        for ranks in (nodes * 8, nodes * 16):
            commands.append({"words": flags_in(words), "world_size": ranks})
        recompute = words[words.index("--recompute-granularity") + 1]
        assert recompute == line["recompute"]
    path = tmp_path / "commands.json"
    path.write_text(json.dumps(commands))
    process = subprocess.run(
        [sys.executable, PARSER, path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    for i, line in enumerate(table):
        for factor, result in zip((1, 2), found[2 * i : 2 * i + 2], strict=True):
            model = [int(line[name]) for name in ("tensor", "pipeline", "context")]
            assert [result[name] for name in ("tensor", "pipeline", "context")] == model
            ranks = factor * int(line["gpus"]) // (model[0] * model[1] * model[2])
            assert result["data_parallel_size"] == ranks
            assert result["micro_batches"] * ranks == int(line["batch"])
            assert result["layers_of_stage"] == int(result["layers_of_stage"])
            assert result["row"] == int(line["row"])
            assert (result["steps"], result["eval_iters"]) == (100, 3)
            assert result["sequence_parallel"]
            assert result["per_token_loss"]
            assert result["implementation"] == "transformer_engine"


@pytest.fixture
def data(tmp_path) -> Path:
    """Corpora and packs under the names that prepare.sh gives them."""
    for row, alignment in ((256, 1), (1024, 4)):
        for split, count in (("train", 100), ("valid", 40)):
            corpus = write_corpus(tmp_path / split, chat_like_lengths(count, longest=256))
            settings = PlanSettings(
                strategy="optimal",
                sequence_length=row,
                alignment=alignment,
                packs_multiple_of=4,
                overlong="split",
            )
            build_pack_index(corpus, settings, tmp_path / f"{split}_packs_{row}")
    return tmp_path


@pytest.mark.parametrize(("row", "ranks"), [(256, 4), (256, 8), (1024, 8)])
@pytest.mark.slow
def test_the_same_script_trains_in_miniature(data, row, ranks):
    """Tensor, sequence and pipeline parallelism, with data parallelism and its distributed
    optimizer, or with longer rows and context parallelism."""
    words = words_of(
        SIZE="tiny", ROW=row, DATA=data, GLOBAL_BATCH=4, EPOCHS=1, SAVE=data / "checkpoints"
    )
    large = words_of(DATA=data, **STEPS)
    words += [word for word in large if word in OPTIMIZER_FLAGS]
    packs = {
        split: json.loads((data / f"{split}_packs_{row}" / "manifest.json").read_text())
        for split in ("train", "valid")
    }
    steps = packs["train"]["figures"]["num_packs"] // 4
    flags = " ".join(flags_in(words))
    assert all(flag in flags for flag in OPTIMIZER_FLAGS)
    assert f"--train-iters {steps} " in flags
    assert f"--eval-iters {packs['valid']['figures']['num_packs'] // 4} " in flags
    flags = flags.replace("HuggingFaceTokenizer", "NullTokenizer --vocab-size 256")
    program = str(EXAMPLES / "pretrain_packed_gpt.py")
    run = run_script([program, *flags.split(), "--num-workers", "0"], ranks)
    assert run.status == 0, run.output[-5000:]
    assert len(run.steps) == steps
    assert 4 < run.steps[0].loss < 7
    (evaluation,) = run.evaluations  # at the end
    assert 4 < evaluation < 7


@pytest.mark.slow
def test_prepare_train_and_go_on_as_the_page_says(tmp_path, chitchat):
    """Every script as a user starts it, torchrun and a restart from the checkpoint among it."""
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines(True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:60]), encoding="utf-8")
    (tmp_path / "valid.jsonl").write_text("".join(lines[60:75]), encoding="utf-8")
    environment = {
        **ENVIRONMENT,
        "SIZE": "tiny",
        "DATA": f"{tmp_path}/data",
        "GLOBAL_BATCH": "4",
        "EPOCHS": "1",
        "TOKENIZER": f"{chitchat}/tokenizer",
        "SAVE": f"{tmp_path}/checkpoints",
        "GPUS_PER_NODE": "4",
        "PORT": "29573",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def run(*command: str) -> str:
        process = subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert process.returncode == 0, process.stdout[-5000:]
        return process.stdout

    words = [f"{chitchat}/tokenizer", "train.jsonl", "valid.jsonl"]
    prepared = run(f"{FOLDER}/prepare.sh", *words)
    assert "train_packs_256 is right: 60 documents exactly once" in prepared
    # Once more: nothing to do; with other settings or inputs nothing is used in silence.
    assert "is right" in run(f"{FOLDER}/prepare.sh", *words)
    environment["GLOBAL_BATCH"] = "8"
    for command, message in (
        (words, "was packed in multiples of 4, not of GLOBAL_BATCH 8; remove it"),
        ([words[0], "valid.jsonl", "valid.jsonl"], "data/train was made from "),
    ):
        again = subprocess.run(
            [FOLDER / "prepare.sh", *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert again.returncode == 1
        assert message in again.stderr
    environment["GLOBAL_BATCH"] = "4"
    more = ["--num-workers", "0", "--eval-iters", "1"]
    first = run(f"{FOLDER}/train.sh", "--train-iters", "2", *more)
    assert "successfully saved checkpoint from iteration       2" in first
    second = run(f"{FOLDER}/train.sh", "--train-iters", "3", *more)
    assert re.search(r"iteration +3/ +3 \| consumed samples: +12 ", second)


@pytest.mark.slow
def test_a_corpus_that_was_made_otherwise_is_not_used(tmp_path, chitchat):
    tokenizer = Path(shutil.copytree(chitchat / "tokenizer", tmp_path / "tokenizer"))
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines(True)
    for name in ("train.jsonl", "valid.jsonl"):
        (tmp_path / name).write_text("".join(lines[:8]), encoding="utf-8")
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages | length }}", encoding="utf-8")

    def prepare(flags: str = "") -> subprocess.CompletedProcess:
        settings = {"SIZE": "tiny", "DATA": f"{tmp_path}/data", "TOKENIZE_FLAGS": flags}
        return subprocess.run(
            [FOLDER / "prepare.sh", tokenizer, "train.jsonl", "valid.jsonl"],
            env={**ENVIRONMENT, **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )

    def refused(flags: str = "") -> str:
        process = prepare(flags)
        assert process.returncode == 1
        return process.stderr

    assert prepare().returncode == 0
    assert prepare().returncode == 0  # the same once more
    message = (
        "data/train was made with TOKENIZE_FLAGS none, the defaults; they are now --loss-on all"
    )
    assert message in refused("--loss-on all")
    assert "they are now --chat-template template.jinja" in refused(
        "--chat-template template.jinja"
    )
    file = tokenizer / "tokenizer.json"
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    assert "was made with another content of the tokenizer than" in refused()
    file.write_bytes(content)
    # A corpus of a release that did not remember is told by its record.
    remembered = tmp_path / "data" / "train_prepared.json"
    remembered.unlink()
    assert prepare().returncode == 0
    assert "train_prepared.json is missing" in refused("--loss-on all")
    record = tmp_path / "data" / "train_corpus.json"
    record.write_text(record.read_text().replace('"loss_on": "assistant"', '"loss_on": "all"'))
    assert "its record says --loss-on all" in refused()


def test_packs_of_another_plan_are_not_used(tmp_path):
    corpus = write_corpus(tmp_path / "train", chat_like_lengths(40, longest=256))
    settings = {"strategy": "optimal", "sequence_length": 256, "packs_multiple_of": 4}
    build_pack_index(corpus, PlanSettings(**settings), tmp_path / "train_packs_256")
    environment = {**ENVIRONMENT, "SIZE": "tiny", "GLOBAL_BATCH": "4", "DATA": f"{tmp_path}"}
    process = subprocess.run(
        [FOLDER / "train.sh"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 1
    assert "train_packs_256 was packed with overlong error, not split" in process.stderr


def test_slurm_starts_the_same_command_on_every_node(tmp_path):
    """With stand-ins for Slurm's commands: there is no cluster here."""
    stand_ins = {
        "scontrol": 'echo "node7\nnode8"',
        # rm is how the script ends: what is there then was copied.
        "srun": "while [[ $1 == --* ]]; do shift; done\n"
        'if [ "$1" = rm ]; then cp -r "${@: -1}" "$KEPT"; fi\nexec "$@"',
    }
    for name, text in stand_ins.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    data = tmp_path / "data"
    for folder in ("train_packs_8192", "valid_packs_8192"):
        (data / folder).mkdir(parents=True)
    for split in ("train", "valid"):
        for name in (split, f"{split}_loss_mask"):
            for suffix in ("bin", "idx"):
                (data / f"{name}.{suffix}").write_text(name)
    (data / "other").write_text("of other rows")
    settings = {
        "PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "12",
        "SLURM_SUBMIT_DIR": EXAMPLES.parent,
        "DATA": data,
        **STEPS,
    }
    words = " ".join(words_of("train.slurm", **settings))
    assert "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node7:29500" in words
    assert words.endswith("--exit-duration-in-mins 1410")
    assert f"--train-data-path {data}/train " in words
    kept = tmp_path / "scratch"
    local = words_of("train.slurm", LOCAL=kept, KEPT=tmp_path / "seen", **settings)
    assert f"--train-data-path {kept}/12/train " in " ".join(local)
    # Copied before the run, and removed after it.
    names = {path.name for path in (tmp_path / "seen").iterdir()}
    assert names == {path.name for path in data.iterdir()} - {"other"}
    assert not list(kept.iterdir())


def test_random_weights_are_not_fine_tuned(tmp_path):
    settings = {**ENVIRONMENT, "PRINT": "1", "STEPS": "1", "EVAL_STEPS": "1"}
    settings["SAVE"] = f"{tmp_path}"
    command = [FOLDER / "train.sh"]
    refused = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "holds no checkpoint to go on from: give INITIAL" in refused.stderr
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    words = words_of(SAVE=tmp_path, STEPS=1, EVAL_STEPS=1)
    assert "--exit-on-missing-checkpoint" in words
    assert "--pretrained-checkpoint" not in words


@pytest.mark.parametrize(
    ("settings", "restarts", "variable"),
    [({}, "0", "none"), ({"MAX_RESTARTS": "3"}, "3", "1"), ({"MAX_RESTARTS": "08"}, "08", "1")],
)
def test_torchrun_restarts_as_often_as_is_asked_with_a_store_of_each_attempt(
    tmp_path, settings, restarts, variable
):
    """With a stand-in for Python that prints what it is started with."""
    python = tmp_path / "python"
    shown = 'echo "${TORCH_DISABLE_SHARE_RDZV_TCP_STORE-none}" "$@"'
    python.write_text(f"#!/usr/bin/env bash\n{shown}\n")
    python.chmod(0o755)
    environment = {"STEPS": "1", "EVAL_STEPS": "1", "INITIAL": f"{tmp_path}", "PYTHON": f"{python}"}
    process = subprocess.run(
        [FOLDER / "train.sh"],
        env={**ENVIRONMENT, **environment, **settings},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    words = process.stdout.split()
    assert words[0] == variable
    assert words[words.index("--max-restarts") + 1] == restarts


@pytest.mark.parametrize(
    ("script", "settings", "message"),
    [
        ("train.sh", {}, "train_packs_8192 is not there; run prepare.sh with the same SIZE, ROW"),
        ("train.sh", {"ROW": "8K"}, "ROW is 8K; give a whole number, 1 or more"),
        ("train.sh", {"EPOCHS": "0.5"}, "EPOCHS is 0.5; give a whole number, 1 or more"),
        ("train.sh", {"GLOBAL_BATCH": "0"}, "GLOBAL_BATCH is 0; give a whole number, 1 or more"),
        ("train.sh", {"MAX_RESTARTS": "once"}, "MAX_RESTARTS is once; give a whole number, 0 or"),
        ("train.sh", {"SIZE": "7b"}, "SIZE is 7b; give 8b, 70b, 405b or tiny"),
        ("train.sh", {"TOKENIZER": ""}, "TOKENIZER is not set; give the tokenizer that prepare.sh"),
        ("train.sh", {"SAVE": ""}, "SAVE is not set; give a folder for checkpoints"),
        ("train.sh", {"INITIAL": "/nope"}, "INITIAL is /nope, which does not exist"),
        ("prepare.sh", {}, "give a tokenizer and two files: "),
    ],
)
def test_a_wrong_setting_gets_one_sentence(tmp_path, script, settings, message):
    process = subprocess.run(
        [FOLDER / script],
        env={**ENVIRONMENT, "DATA": f"{tmp_path}", **settings},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode in (1, 2)
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert message in process.stderr


def test_rows_between_those_of_the_page_get_the_next_longer_layout():
    words = words_of(SIZE="70b", ROW=65536, **STEPS)
    assert words[words.index("--context-parallel-size") + 1] == "8"
