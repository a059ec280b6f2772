# SPDX-License-Identifier: Apache-2.0
"""Finds a tokenizer in a process of its own, whose memory is gone afterwards.

transformers, which knows where tokenizers are, imports torch where it is installed: half a gigabyte
that tokenizing never needs.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.tokenizer import TokenizerSource, find_tokenizer


def find_tokenizer_apart(path_or_name: str) -> TokenizerSource:
    """What ``find_tokenizer`` finds, without importing what it imports.

    Raises:
        InputError: It cannot be used.
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
        return find_tokenizer(path_or_name)  # this package is not where a new process finds it
    found = pickle.loads(process.stdout)
    if isinstance(found, InputError):
        raise found
    if not isinstance(found, TokenizerSource):
        raise AssertionError(f"{type(found)} is no tokenizer")
    return found


def main() -> None:
    """Write what was found, or why it cannot be used, to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what Ctrl-C means
    output, sys.stdout = sys.stdout.buffer, sys.stderr
    found: TokenizerSource | InputError
    try:
        found = find_tokenizer(sys.argv[1])
    except InputError as error:
        found = InputError(str(error))
    pickle.dump(found, output)


if __name__ == "__main__":
    main()
