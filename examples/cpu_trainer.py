# SPDX-License-Identifier: Apache-2.0
"""Runs a Megatron training script on a machine without CUDA, for tests and demonstrations.

    torchrun --nproc-per-node N examples/cpu_trainer.py SCRIPT.py --distributed-backend gloo ...

Megatron's trainer asks for CUDA in many places. ``megatron_packing.megatron.cuda_stand_ins`` puts
stand-ins there before SCRIPT.py runs unchanged. Where CUDA is available nothing of this happens:
the script runs as if it had been started directly.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from megatron_packing.needs.installed import end_script_without

end_script_without("torch", "megatron_core")

from megatron_packing.megatron.cuda_stand_ins import run_cuda_code_on_cpu


def main() -> None:
    """Run the script named first, with the rest of the command line as its own."""
    if len(sys.argv) < 2:
        sys.exit("usage: cpu_trainer.py SCRIPT.py [ARGUMENTS...]")
    run_cuda_code_on_cpu()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
