# SPDX-License-Identifier: Apache-2.0
"""``packed_through_te`` with the newest tested release of Transformer Engine."""

from __future__ import annotations

import os

from tests.te.wheels import RELEASES

os.environ["PACKING_TEST_TE_RELEASE"] = RELEASES[0]

from tests.te.packed_through_te import main

__all__ = ["main"]
