# SPDX-License-Identifier: Apache-2.0
"""What a benchmark ran on, for the JSON beside its figures."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def write_json(path: Path, results: list[dict[str, Any]]) -> None:
    """Write results with the date, the machine and the versions of what was compared."""
    versions = {}
    for package in ("megatron-packing", "numpy", "lightbinpack", "seqpacker"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    record = {
        "date": date.today().isoformat(),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
