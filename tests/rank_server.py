# SPDX-License-Identifier: Apache-2.0
"""Runs the main() of one script in forked ranks, so that what it imports is imported once.

    rank_server.py SCRIPT

See ``tests.forked_ranks`` for what it reads and ``tests.ranks`` for who writes it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.forked_ranks import serve


def main() -> None:
    """Import the script, whose output goes to standard error, and serve."""
    script = Path(sys.argv[1])
    answers = os.dup(1)
    os.dup2(2, 1)  # what imports print is no answer
    sys.path.insert(0, str(script.parent))  # as where it is run
    spec = importlib.util.spec_from_file_location(f"served_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    os.dup2(answers, 1)
    serve(lambda _request, _rank: module.main())


if __name__ == "__main__":
    main()
