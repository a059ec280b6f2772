# SPDX-License-Identifier: Apache-2.0
"""Checks and measures packed training on one GPU, in one command, without a network.

    python benchmarks/gpu/measure.py --brought FOLDER --out FOLDER [--dry-run] [--stages NAME ...]

FOLDER of --brought is what bring.py made on a machine with a network. Wheels in it are installed
for this run alone. Every stage runs in a process of its own with a time limit and writes
OUT/STAGE.json as it goes, so a run that is cut off keeps what it has. Correctness comes first. The
dry run takes every stage in small on a CPU, all but the first in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from stages import STAGES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NEEDED = ("numpy", "torch", "rich", "transformers", "pytest", "hypothesis", "psutil", "einops")
"""What no wheel of wheels.txt brings; Transformer Engine wants onnx and onnxscript beside."""


def run_stages(names: list[str], brought: Path, work: Path, out: Path, dry: bool) -> None:
    """Run stages in this process."""
    from ground import open_ground

    ground = open_ground(brought, work, out, dry)
    functions = {name: STAGES[name].load() for name in names}
    if not dry and any(STAGES[name].uses_megatron for name in names):
        import megatron.core.models.gpt  # noqa: F401 - takes seconds; before the turn comes
        import transformer_engine.pytorch  # noqa: F401
    if not sys.stdin.readline():  # imports were done while the stage before was running
        sys.exit("measure.py ended before this stage began")
    for name, run in functions.items():
        began = time.perf_counter()
        error: dict[str, Any] = {}
        try:
            run(ground)
        except Exception:
            error = {"ok": False, "error": traceback.format_exc()[-3000:]}
        seconds = {"seconds": round(time.perf_counter() - began, 1)}
        found = result_of(out, name) or {"ok": False, "error": "it left no result"}
        ground.save(name, found | error | seconds)


def join(brought: Path, folder: Path) -> list[Path]:
    """Put the pieces together into which bring.py cuts large files."""
    joined = []
    for first in brought.glob("*.piece00"):
        pieces = sorted(brought.glob(f"{first.stem}.piece*"))
        joined.append(folder / first.stem)
        joined[-1].write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return joined


def install(brought: Path, site: Path) -> None:
    """Install the wheels that were brought into a folder of this run's."""
    site.mkdir()
    wheels = sorted(map(str, [*brought.glob("*.whl"), *join(brought, site.parent)]))
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*command, "--no-compile", "--target", str(site), *wheels], check=True)


def main() -> None:
    """Run the stages in turn and print what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brought", type=Path, required=True, help="what bring.py made")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--dry-run", action="store_true", help="every stage in small, on a CPU")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--minutes", type=float, default=60, help="stop after (default: 60)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--here", nargs="+", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        run_stages(options.here, options.brought, options.work, options.out, options.dry_run)
        return
    if not (options.brought / "chitchat" / "corpus.idx").is_file():
        sys.exit(
            f"error: {options.brought} is no folder that bring.py made; give it with --brought"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.stages:
        (options.out / f"{name}.json").unlink(missing_ok=True)
    ends = time.monotonic() + options.minutes * 60
    temporary = tempfile.TemporaryDirectory(prefix="megatron-packing-")
    work = Path(temporary.name)
    site = work / "site"
    if not options.dry_run:  # which uses what is installed
        install(options.brought, site)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [site, ROOT, ROOT / "examples"])),
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    }
    check_packages(environment)
    if options.dry_run:
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    corpora = [HERE / "ground.py", options.brought, work]
    subprocess.run([sys.executable, *map(str, corpora)], env=environment, check=True)

    def start(names: list[str]) -> subprocess.Popen[str]:
        words = ["--brought", options.brought, "--work", work, "--out", options.out]
        words += ["--dry-run"] * options.dry_run + ["--here", *names]
        with (options.out / f"{names[0]}.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, __file__, *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                start_new_session=True,  # so that what it starts ends with it
            )

    turns = [[name] for name in options.stages]
    if options.dry_run and len(turns) > 1:
        turns = [turns[0], options.stages[1:]]
    next_one = start(turns[0])
    for position, names in enumerate(turns):
        process = next_one
        if position + 1 < len(turns):
            next_one = start(turns[position + 1])
        limit = sum(STAGES[name].seconds for name in names)
        error = finish(process, max(0.0, min(limit, ends - time.monotonic())))
        if error:
            left = [name for name in names if "seconds" not in result_of(options.out, name)]
            note(options.out, left[0] if left else names[-1], error)
            for name in left[1:]:
                note(options.out, name, f"not begun, as {left[0]} {error}")
        for name in names:
            print(f"{name}: {summary(result_of(options.out, name))}", flush=True)
    subprocess.run([sys.executable, HERE / "report.py", options.out], env=environment, check=False)
    found = [result_of(options.out, name) for name in options.stages]
    sys.exit(0 if all(result.get("ok") for result in found) else 1)


def finish(process: subprocess.Popen[str], seconds: float) -> str | None:
    """Let a stage begin and wait for it; it and what it started end here, whatever happens.

    Returns:
        Why it did not end well; None if it did.
    """
    try:
        process.communicate("go\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        return "stopped: its time was over"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"ended with {process.returncode}" if process.returncode else None


def check_packages(environment: dict[str, str]) -> None:
    """End with a sentence where this Python lacks a package that no wheel brought."""
    looking = (
        "import importlib.util, sys; "
        "print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", looking, *NEEDED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if missing := done.stdout.split():
        sys.exit(
            f"error: {sys.executable} lacks {', '.join(missing)}: install them, or put their "
            f"wheels into the folder that --brought names"
        )


def result_of(out: Path, name: str) -> dict[str, Any]:
    """What a stage wrote; nothing where it wrote nothing."""
    path = out / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def note(out: Path, name: str, error: str) -> None:
    """Leave in a stage's result why it has no more."""
    known = {"error": error} | result_of(out, name) | {"ok": False}
    (out / f"{name}.json").write_text(json.dumps(known, indent=1))


def summary(found: dict[str, Any]) -> str:
    """One line on a stage's result."""
    error = str(found.get("error", "")).strip().splitlines()[-1:]
    return " ".join(["ok" if found.get("ok") else "FAILED", f"({found.get('seconds')} s)", *error])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the folder of --out has what is known so far")
