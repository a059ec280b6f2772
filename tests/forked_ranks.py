# SPDX-License-Identifier: Apache-2.0
"""Serves requests to run something in several forked processes, as the ranks of one run.

A server imports what all ranks need, once, and then calls ``serve``: it reads one JSON request a
line and answers each with one line. Ranks run as under torchrun: where one fails, the others are
killed. A request has:

    number       which the answer repeats
    ranks        how many processes
    argv         sys.argv of each
    environment  variables beside those of the server
    folder       where what the ranks print is written
    outputs      names of the files there for standard output and error, with ".RANK" added
    timeout      seconds after which all are killed
    kill_after   kill all once so many lines are in folder/steps.RANK.jsonl; or null
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

Main = Callable[[dict, int], None]


def serve(main: Main) -> None:
    """Answer requests until the input ends; ``main`` gets the request and the rank's number."""
    gc.collect()
    gc.freeze()  # ranks share the pages of all that is there by now
    for line in sys.stdin:
        request = json.loads(line)
        answer = _run(request, main) | {"number": request["number"]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _become_rank(request: dict, rank: int, port: int, main: Main) -> None:
    """Become one rank of a run; never returns."""
    ranks = str(request["ranks"])
    os.setpgid(0, 0)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=ranks,
        LOCAL_WORLD_SIZE=ranks,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        **request["environment"],
    )
    for descriptor, name in enumerate(request["outputs"], start=1):
        path = Path(request["folder"]) / f"{name}.{rank}"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    status = 0
    try:
        sys.argv = request["argv"]
        main(request, rank)
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            sys.stderr.write(exit_.code + "\n")
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    _join_threads()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _join_threads() -> None:
    """Wait for threads as Python does at its end; one may delete an old checkpoint."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def free_port() -> int:
    """A port that nothing listens on, and that no connection is given by the system.

    Linux gives connections ports from 32768 on: one that it names as free may be taken by another
    process before the first rank listens.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32768)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def _run(request: dict, main: Main) -> dict:
    """Fork the ranks, and wait for all, for one that fails, or for the time to kill them."""
    port = free_port()
    ranks = {}
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            _become_rank(request, rank, port, main)
        with contextlib.suppress(PermissionError):
            os.setpgid(pid, pid)  # in the rank too: whoever comes first
        ranks[pid] = rank
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + request["timeout"]
    steps = [Path(request["folder"]) / f"steps.{rank}.jsonl" for rank in ranks.values()]
    timed_out = False
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            statuses[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            _kill([pid])  # what it started to write checkpoints lives on otherwise
            if status and ranks:
                time.sleep(1)  # the others may be about to say the same
                _kill(ranks)
            continue
        kill_after = request["kill_after"]
        if kill_after is not None:
            done = max(len(path.read_text().splitlines()) if path.exists() else 0 for path in steps)
            if done >= kill_after:
                _kill(ranks)
        if time.monotonic() > deadline:
            timed_out = True
            _kill(ranks)
        time.sleep(0.005)
    return {"statuses": [statuses[rank] for rank in sorted(statuses)], "timed_out": timed_out}


def _kill(pids: Iterable[int]) -> None:
    """Kill ranks and what they started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
