# SPDX-License-Identifier: Apache-2.0
"""Finds a tokenizer in a separate process, which frees its memory at its end.

transformers imports torch if it is installed. That takes half a gigabyte, which tokenizing does not
need.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_tokenizer
from megatron_packing.tokenizers.source import TokenizerSource


def find_tokenizer_apart(path_or_name: str) -> TokenizerSource:
    """Find a tokenizer as ``find_tokenizer`` does, without its imports in this process.

    Raises:
        InputError: There is no such tokenizer, or it cannot be used.
    """
    if "transformers" in sys.modules:
        return find_tokenizer(path_or_name)
    process = subprocess.run(
        [sys.executable, "-m", __name__, path_or_name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if process.returncode != 0 or not process.stdout:
        return find_tokenizer(path_or_name)  # a new process cannot import this package
    found = pickle.loads(process.stdout)
    if isinstance(found, InputError):
        raise found
    if not isinstance(found, TokenizerSource):
        raise AssertionError(f"{type(found)} is not a tokenizer")
    return found


def main() -> None:
    """Write the tokenizer, or the error, to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent handles Ctrl-C
    output, sys.stdout = sys.stdout.buffer, sys.stderr
    found: TokenizerSource | InputError
    try:
        found = find_tokenizer(sys.argv[1])
    except InputError as error:
        found = InputError(str(error))
    pickle.dump(found, output)


if __name__ == "__main__":
    main()
