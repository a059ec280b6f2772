# SPDX-License-Identifier: Apache-2.0
"""Puts the line that names the license at the top of each source file that lacks it.

python tools/add_spdx.py          # writes
python tools/add_spdx.py --check  # names the files that lack it and fails
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LICENSE = "SPDX-License-Identifier: Apache-2.0"
COMMENTS = {".py": "#", ".pyi": "#", ".sh": "#", ".slurm": "#", ".cpp": "//", ".hpp": "//"}


def sources(root: Path) -> list[Path]:
    """The source files that git knows, or would take."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [root / name for name in output.split("\0") if name]
    return sorted(path for path in paths if path.suffix in COMMENTS and path.is_file())


def lacks_license(path: Path) -> bool:
    """Whether the first two lines, of which one may be for the shell, do not name it."""
    first = path.read_text(encoding="utf-8").split("\n", 2)[:2]
    return f"{COMMENTS[path.suffix]} {LICENSE}" not in first


def add_license(path: Path) -> None:
    """Write it as the first line, or the second after the shell's."""
    text = path.read_text(encoding="utf-8")
    line = f"{COMMENTS[path.suffix]} {LICENSE}\n"
    shell = ""
    if text.startswith("#!"):
        shell, _, text = text.partition("\n")
        shell += "\n"
    path.write_text(f"{shell}{line}{text}", encoding="utf-8")


if __name__ == "__main__":
    lacking = [
        path for path in sources(Path(__file__).resolve().parent.parent) if lacks_license(path)
    ]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(map(str, lacking)) or 0)
    for source in lacking:
        add_license(source)
