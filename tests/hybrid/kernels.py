# SPDX-License-Identifier: Apache-2.0
"""Makes the kernels of Mamba and gated delta net layers importable on a machine without a GPU.

The packages of requirements/hybrid_kernels.txt, each in a folder of its own.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tests.conftest import ROOT
from tests.hybrid.fake import causal_conv1d, triton_interpreter
from tests.pinned import pinned_folder

REQUIREMENTS = ROOT / "requirements" / "hybrid_kernels.txt"
# Its setup.py asks for CUDA unless it is told to leave the compiled part out; it imports torch.
_FROM_SOURCE = {
    "options": ("--no-binary", ":all:", "--no-build-isolation"),
    "environment": {"MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"},
}


def folders() -> dict[str, Path]:
    """Return the folder of each package; install those that are not there.

    Raises:
        NotInstalledError: pip cannot install one.
    """
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    return {
        name: pinned_folder(line, **(_FROM_SOURCE if name == "mamba-ssm" else {}))
        for line in lines
        for name in [line.partition("==")[0]]
    }


def install() -> None:
    """Put the packages and the stand-ins in place, before megatron.core is imported."""
    triton_interpreter.install()
    causal_conv1d.install()
    found = folders()
    sys.path.append(str(found["fla-core"]))
    # Its __init__ imports the compiled part and language models.
    package = ModuleType("mamba_ssm")
    package.__path__ = [str(found["mamba-ssm"] / package.__name__)]
    vars(package)["__version__"] = found["mamba-ssm"].name
    sys.modules[package.__name__] = package


def prepare() -> None:
    """Change what the interpreter lacks in kernels, after ``install`` and CUDA's stand-ins."""
    importlib.import_module("fla.ops.gated_delta_rule")
    triton_interpreter.let_loops_count_in_tensors("fla.ops.common.chunk_delta_h")
