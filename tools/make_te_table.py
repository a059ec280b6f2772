# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/te-backends.md: what computes attention over packed rows, by GPU.

    .venv-3.12/bin/python tools/make_te_table.py

Transformer Engine's own Python selects, on the CPU; tests/te/fake stands in for its binary parts.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Replace the table in the page."""
    import tests.te.newest  # noqa: F401  # puts the stand-ins in place
    from tests.te.backend_table import make_table

    page = ROOT / "docs" / "te-backends.md"
    table = make_table()
    text, count = re.subn(
        r"(?m)^\| configuration .*\n(\|.*\n)+", lambda _: f"{table}\n", page.read_text()
    )
    if count != 1:
        sys.exit(f"error: {page} has {count} tables of configurations; keep exactly one")
    page.write_text(text)


if __name__ == "__main__":
    main()
