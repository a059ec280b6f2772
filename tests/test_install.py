# SPDX-License-Identifier: Apache-2.0
"""Installing changes nothing in an image that has its own torch and Megatron."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import tomllib

from tests.conftest import ROOT
from tests.limits import TIME_LIMIT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMAND = "install --no-deps ."

IMAGES = {
    "megatron-core 0.16.0rc0": {"megatron_core": "0.16.0rc0", "transformer_engine": "2.9.0"},
    "a Megatron checkout": {"megatron_core": "0.20.0+git1a2b3c4", "megatron_bridge": "0.7.0rc0"},
}
IN_ALL_IMAGES = {
    "torch": "2.12.0a0+nv26.3",
    "triton": "3.6.0+nv",
    "numpy": "2.1.0",
    "transformers": "4.57.1",
    "tokenizers": "0.22.1",
    "fsspec": "2025.3.0",
    "jinja2": "3.1.6",
    "markupsafe": "3.0.2",
    "pyarrow": "19.0.1",
    "sentencepiece": "0.2.0",
    "regex": "2025.1.1",
}
# uv does not see the image's packages: what no plan with extras may hold even so.
NEVER_PLANNED = re.compile(r"torch|triton|nvidia-.*|megatron-(core|bridge)|.*engine.*")
IMAGES_OWN = re.compile(f"{NEVER_PLANNED.pattern}|numpy|transformers")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    for name in ("csrc", "megatron_packing"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__py*"))
    return folder


@pytest.fixture(scope="module")
def uv(tmp_path_factory):
    """The uv of the machine, or one that only these tests see."""
    if found := shutil.which("uv"):
        return found
    folder = tmp_path_factory.mktemp("uv")
    install = ["install", "--quiet", "--no-deps", "--target", str(folder), "uv==0.13.9"]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=TIME_LIMIT)
    return str(folder / "bin" / "uv")


@pytest.fixture(scope="module", params=sorted(IMAGES))
def image(request, tmp_path_factory):
    """The Python of a virtual environment that sees an image's packages, and their folder.

    Of the packages there is only what pip and uv look at, their metadata.
    """
    folder = tmp_path_factory.mktemp("image")
    system, environment = folder / "system", folder / "environment"
    for venv in (system, environment):
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=TIME_LIMIT
        )
    (site,) = system.glob("lib/python*/site-packages")
    for name, version in {**IN_ALL_IMAGES, **IMAGES[request.param]}.items():
        metadata = site / f"{name}-{version}.dist-info"
        metadata.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        (metadata / "METADATA").write_text(text)
        (metadata / "INSTALLER").write_text("pip\n")
        (metadata / "RECORD").write_text("")
    # As --system-site-packages does, with a system that the test owns.
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "system.pth").write_text(f"{site}\n")
    return environment / "bin" / "python"


def run(command, checkout):
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        list(map(str, command)),
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


def planned_by_pip(python, checkout, arguments):
    """What pip would install: versions by name."""
    report = checkout / "report.json"
    options = ["--dry-run", "--quiet", "--report", report]
    pip = [sys.executable, "-m", "pip", "--python", python]
    done = run([*pip, *arguments, *options], checkout)
    assert done.returncode == 0, done.stderr
    installed = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in installed}


def planned_by_uv(uv, python, checkout, arguments):
    done = run([uv, "pip", *arguments, "--dry-run", "--python", python], checkout)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^ \+ (\S+?)(?:==| @ )(\S+)$", done.stderr, re.MULTILINE))


def test_the_documented_command_is_the_tested_one():
    assert f"pip {COMMAND}" in README
    assert f"pip {COMMAND}" in (ROOT / "examples/llama3_70b_sft/README.md").read_text()


@pytest.mark.slow
def test_pip_installs_this_project_alone(image, checkout):
    assert set(planned_by_pip(image, checkout, COMMAND.split())) == {"megatron-packing"}


@pytest.mark.slow
def test_uv_installs_this_project_alone(uv, image, checkout):
    assert set(planned_by_uv(uv, image, checkout, COMMAND.split())) == {"megatron-packing"}


@pytest.mark.slow
def test_pip_leaves_the_images_packages_with_the_extra_for_data_too(image, checkout):
    planned = planned_by_pip(image, checkout, ["install", ".[tokenize]"])
    assert {"tiktoken", "zstandard"} <= set(planned)  # the image has none
    assert [name for name in planned if IMAGES_OWN.fullmatch(name)] == []


@pytest.mark.parametrize("extra", sorted(PYPROJECT["project"]["optional-dependencies"]))
@pytest.mark.slow
def test_no_extra_has_torch_or_megatron(uv, checkout, extra, image):
    planned = planned_by_uv(uv, image, checkout, ["install", f".[{extra}]"])
    assert "megatron-packing" in planned
    assert [name for name in planned if NEVER_PLANNED.fullmatch(name)] == []


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "megatron_packing").rglob("*.py")
    if path.stem != "__init__" and "needs" not in path.parts
)
ABSENT = ["torch", "megatron", "transformers", "transformer_engine"]


def test_every_module_says_which_package_it_lacks():
    program = (
        "import importlib, sys\n"
        f"for name in {ABSENT}: sys.modules[name] = None\n"
        "from megatron_packing.errors import InputError\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except InputError as error: print(name, error)\n"
    )
    done = run([sys.executable, "-c", program, *MODULES], ROOT)
    assert done.returncode == 0, done.stderr
    sentences = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {
        "megatron_packing.megatron.trainer",
        "megatron_packing.bridge.provider",
        "megatron_packing.bridge.recipe",
        "megatron_packing.thd.attention",
    } <= set(sentences)
    for sentence in sentences.values():
        assert re.match(r"this needs (torch|megatron-core|megatron-bridge|Megatron's) ", sentence)
        assert re.search(r"or install it with: pip install '[a-z-]+>=[\d.]+'$", sentence)


def test_the_command_line_says_what_an_install_without_dependencies_lacks():
    program = "import sys; sys.modules['rich'] = None; import megatron_packing.cli"
    done = run([sys.executable, "-c", program], ROOT)
    assert done.returncode == 1
    assert done.stderr == (
        "megatron-packing: error: rich is not installed; "
        "install it with: pip install --no-deps rich\n"
    )
