# SPDX-License-Identifier: Apache-2.0
"""Watches the memory of tokenizing a large file.

    python benchmarks/tokenize_memory.py INPUT --tokenizer PATH [--chat-template FILE]
        [--gigabytes N] [--workers N] [--json FILE]

INPUT, JSON Lines, is repeated until it has that size. The resident memory of the process and of
each worker is read ten times a second; beside it stands that of a process with the tokenizer alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from machine import write_json
from rich.console import Console

console = Console(highlight=False)
LOADED = """
import sys, psutil
from megatron_packing.tokenizers.find import find_tokenizer
tokenizer = find_tokenizer(sys.argv[1]).open()
print(psutil.Process().memory_info().rss)
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED, args.tokenizer], capture_output=True, text=True, check=True
    )
    tokenizer_bytes = int(loaded.stdout)
    with tempfile.TemporaryDirectory() as name:
        large = Path(name) / "large.jsonl"
        content = args.input.read_bytes()
        with large.open("wb") as file:
            while file.tell() < args.gigabytes * 1e9:
                file.write(content)
        command = [
            *(sys.executable, "-m", "megatron_packing.cli", "tokenize", str(large)),
            *("--output-prefix", f"{name}/corpus", "--tokenizer", args.tokenizer),
            *("--workers", str(args.workers), "--on-bad-record", "skip"),
        ]
        if args.chat_template:
            command += ["--chat-template", str(args.chat_template)]
        begin = time.monotonic()
        process = psutil.Popen(command)
        peaks: dict[int, int] = {}
        while process.poll() is None:
            try:
                for one in [process, *process.children(recursive=True)]:
                    peaks[one.pid] = max(peaks.get(one.pid, 0), one.memory_info().rss)
            except psutil.Error:  # one has just ended
                pass
            time.sleep(0.1)
        seconds = time.monotonic() - begin
        if process.returncode:
            sys.exit(process.returncode)
        size = large.stat().st_size
    main_peak = peaks.pop(process.pid)
    worker_peaks = sorted(peaks.values())[-args.workers :]
    result = {
        "input_bytes": size,
        "seconds": seconds,
        "main_bytes": main_peak,
        "worker_bytes": worker_peaks,
        "tokenizer_bytes": tokenizer_bytes,
    }
    megabytes = ", ".join(f"{peak / 1e6:,.0f}" for peak in worker_peaks)
    console.print(
        f"{size / 1e9:.2f} GB in {seconds:,.0f} s; at most {main_peak / 1e6:,.0f} MB, its workers "
        f"{megabytes} MB; a process with the tokenizer alone has {tokenizer_bytes / 1e6:,.0f} MB"
    )
    if args.json:
        write_json(args.json, [result])


if __name__ == "__main__":
    main()
