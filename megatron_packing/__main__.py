# SPDX-License-Identifier: Apache-2.0
"""``python -m megatron_packing``: the command ``megatron-packing``."""

import sys

from megatron_packing.cli import main

if __name__ == "__main__":
    sys.exit(main())
