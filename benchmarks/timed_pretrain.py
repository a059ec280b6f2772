# SPDX-License-Identifier: Apache-2.0
"""Trains as examples/pretrain_packed_gpt.py does, and writes down what each pass takes.

Each rank appends a line to the file PASS_TIMES.RANK for each pass of a micro-batch, in the order in
which Megatron's schedule ran it: F or B, and the processor time of this process in seconds, so what
else runs on the machine, and waiting for other ranks, is not in it.
"""

import functools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import pretrain_packed_gpt
from megatron.core.pipeline_parallel import schedules


def timed(function, kind):
    """The function, which writes a line when it has run."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        started = time.process_time()
        result = function(*args, **kwargs)
        seconds = time.process_time() - started
        with open(f"{os.environ['PASS_TIMES']}.{os.environ['RANK']}", "a") as file:  # noqa: PTH123
            file.write(f"{kind} {seconds}\n")
        return result

    return run


schedules.forward_step = timed(schedules.forward_step, "F")
schedules.backward_step = timed(schedules.backward_step, "B")

if __name__ == "__main__":
    pretrain_packed_gpt.main()
