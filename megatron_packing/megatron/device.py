# SPDX-License-Identifier: Apache-2.0
"""Where this rank computes."""

from __future__ import annotations

import torch


def own_device() -> torch.device:
    """Return the device that this rank computes on, and whose tensors it exchanges with others."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
