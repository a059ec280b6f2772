# SPDX-License-Identifier: Apache-2.0
"""A wheel plans packs where nothing can be compiled, and a source install says what it lacks.

Each lane tests the wheel of its own Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import numpy as np
import pytest

from tests.conftest import ROOT, chat_like_lengths
from tests.limits import TIME_LIMIT

# Of the source distribution; without what was built in the checkout.
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "NOTICE",
    "csrc",
    "megatron_packing",
)
PLAN = """
import sys
import numpy as np
from megatron_packing import plan_packs
print(plan_packs(np.load(sys.argv[1]), 1024, overlong="split").num_packs)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            built = shutil.ignore_patterns("*.so", "_strategy.py", "__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=built)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def run(*words, path, **environment):
    """Run a command that finds other programs in the folder ``path`` alone."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV")
    }
    return subprocess.run(
        [*map(str, words)],
        env={**inherited, "PATH": str(path), **environment},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


@pytest.mark.slow
def test_a_wheel_plans_packs_in_an_empty_environment_without_a_compiler(source, tmp_path):
    wheels, environment = tmp_path / "wheels", tmp_path / "environment"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = wheels.iterdir()
    assert f"-cp{sys.version_info[0]}{sys.version_info[1]}-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in (f"_core{suffix}", "_core.pyi", "_strategy.py", "py.typed", "commands/pack.py"):
        assert f"megatron_packing/{name}" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"megatron_packing"}

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    programs = environment / "bin"
    python = programs / "python"
    assert shutil.which("c++", path=programs) is None
    install = [*pip, "--python", python, "install", "--quiet", "--only-binary", ":all:", wheel]
    installed = run(*install, path=programs, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert installed.returncode == 0, installed.stderr

    lengths = chat_like_lengths(2000, longest=1500)
    np.save(programs / "lengths.npy", lengths)
    planned = run(python, "-c", PLAN, "lengths.npy", path=programs)
    assert planned.returncode == 0, planned.stderr
    assert int(planned.stdout) >= -(-lengths.sum() // 1024)
    words = ["--lengths", "lengths.npy", "--sequence-length", "1024", "--overlong", "split"]
    compared = run(programs / "megatron-packing", "compare", *words, path=programs)
    assert compared.returncode == 0, compared.stderr
    assert "2,000 documents" in compared.stdout
    assert planned.stdout.strip() in compared.stdout


COMPILES_NOTHING = "#!/bin/sh\nexit 1\n"
LACKS_HEADERS = """#!/bin/sh
for word; do
  case $word in
    *.cpp) while read -r line; do
        case $line in *Python.h*) exit 1 ;; esac
      done < "$word" ;;
  esac
done
"""


@pytest.mark.parametrize(
    ("compiler", "sentence"),
    [
        (
            None,
            r"no C\+\+ compiler was found \(.*\); install g\+\+, or set CXX, or install a wheel",
        ),
        (COMPILES_NOTHING, r"\S+/c\+\+ does not compile C\+\+17; install g\+\+ 9 or later, or set"),
        (
            LACKS_HEADERS,
            r"Python\.h is not in /\S+; install Python's headers \(python3\.\d+-dev\),",
        ),
    ],
    ids=["no compiler", "an old compiler", "no headers"],
)
def test_a_source_install_says_what_it_lacks(source, tmp_path, compiler, sentence):
    environment = {}
    if compiler is not None:
        program = tmp_path / "c++"
        program.write_text(compiler)
        program.chmod(0o755)
        environment["CXX"] = str(program)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    words = ["--no-build-isolation", "--wheel-dir", tmp_path / "wheels", source]
    done = run(*pip, *words, path=tmp_path, **environment)
    assert done.returncode == 1
    said = re.findall(r"error: megatron-packing is compiled .*", done.stdout + done.stderr)
    assert len(said) == 1, done.stdout + done.stderr
    assert re.search(sentence, said[0])
    assert said[0].endswith("or install a wheel, which needs no compiler")
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("wheels/*"))
