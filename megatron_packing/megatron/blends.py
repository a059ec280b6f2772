# SPDX-License-Identifier: Apache-2.0
"""Checks the words and weights of blends, such as ``0.3 A 0.7 B``."""

from __future__ import annotations

import math

from megatron_packing.errors import InputError


def is_number(word: str) -> bool:
    """Whether a word of a blend is a number and so may be a weight."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def check_weight(setting: str, path: str, weight: float, what: str) -> None:
    """Refuse a weight that is not a positive, finite number.

    Args:
        setting: The flag or setting with the blend, for the message.
        path: The part of the blend that has the weight.
        weight: Its weight.
        what: The kind of part, such as ``corpus``.

    Raises:
        InputError: The weight is 0, negative, infinite or NaN.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(
            f"{setting} gives {path} the weight {weight:g}; give it a weight greater than 0, or "
            f"leave the {what} out"
        )
