# SPDX-License-Identifier: Apache-2.0
"""The packed example under torchrun, whose second rank kills itself once.

    torchrun --max-restarts 1 --nproc-per-node 2 pretrain_killed.py FOLDER STEP ARGUMENTS...

In the first attempt rank 1 dies after it trained step STEP. Each attempt writes what it trained and
read into its own subfolder of FOLDER: see ``tests.trainer_server.observe``.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import trainer_server

folder, last_step = Path(sys.argv[1]), int(sys.argv[2])
attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], int(os.environ["RANK"])
(folder / attempt).mkdir(parents=True, exist_ok=True)
(folder / attempt / f"process.{rank}").write_text(str(os.getpgrp()))
trainer_server.observe(folder / attempt, rank)
log = trainer_server.training.training_log


def log_or_die(loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs):
    result = log(loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs)
    if (attempt, rank, iteration) == ("0", 1, last_step):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


trainer_server.training.training_log = log_or_die
script = ROOT / "examples" / "pretrain_packed_gpt.py"
sys.argv = [str(script), *sys.argv[3:]]
runpy.run_path(str(script), run_name="__main__")
