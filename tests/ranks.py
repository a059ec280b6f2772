# SPDX-License-Identifier: Apache-2.0
"""Runs a script in several processes at once, as the ranks of one run."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.limits import TIME_LIMIT

SERVERS = Path(__file__).parent
# Tensors of one step take the memory of those of the last; else each is mapped and paged in anew,
# a third of the time of padded runs.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{1 << 30}", "MALLOC_TRIM_THRESHOLD_": f"{1 << 32}"}


class RankServer:
    """A process that forks ranks as they are asked for: see ``tests.forked_ranks``."""

    def __init__(self, *words: object, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            # The last hides the GPUs.
            env={**os.environ, **KEEP_MEMORY, **environment, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._requests = 0
        atexit.register(self.close)

    def ask(self, **request: object) -> dict:
        """Run the ranks of a request; give their exit statuses and whether they took too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests += 1
        self._process.stdin.write(json.dumps({**request, "number": self._requests}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer["number"] == self._requests:  # not of a test that ended at its time limit
                return answer
        raise AssertionError("the server of the ranks ended")

    def close(self) -> None:
        """End the server."""
        atexit.unregister(self.close)
        self._process.kill()
        self._process.communicate()


_servers: dict[Path, RankServer] = {}


def _server(script: Path) -> RankServer:
    """The server of a script; the one of another ends, as each takes a gigabyte of memory."""
    if script not in _servers:
        while _servers:
            _servers.popitem()[1].close()
        _servers[script] = RankServer(
            SERVERS / "rank_server.py", script, environment={"OMP_NUM_THREADS": "1"}
        )
    return _servers[script]


def run_ranks(script: Path, *arguments: object, ranks: int = 1) -> list[str]:
    """What each rank printed; all must end within the time limit.

    The script is imported once, and its ``main`` is called in a forked process for each rank.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answer = _server(script).ask(
            argv=[str(script), *map(str, arguments)],
            ranks=ranks,
            folder=name,
            outputs=["output", "errors"],
            environment={},
            kill_after=None,
            timeout=TIME_LIMIT,
        )
        outputs, errors = (
            [(folder / f"{kind}.{rank}").read_text(errors="replace") for rank in range(ranks)]
            for kind in ("output", "errors")
        )
    assert not answer["timed_out"], f"no end within {TIME_LIMIT} s: {errors[0][-3000:]}"
    failed = [
        f"rank {rank} ended with {status}:\n{text[-3000:]}"  # the first to fail makes others fail
        for rank, (status, text) in enumerate(zip(answer["statuses"], errors, strict=True))
        if status != 0
    ]
    assert not failed, "\n".join(failed)
    return outputs
