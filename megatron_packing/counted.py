# SPDX-License-Identifier: Apache-2.0
"""Counts in words."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A count and what is counted: ``1 document``, ``2,000 documents``, ``3 boxes``.

    Args:
        count: How many.
        singular: What one of them is called.
        plural: What several are called; by default the singular and an s.
    """
    name = singular if count == 1 else plural or f"{singular}s"
    return f"{count:,} {name}"
