# SPDX-License-Identifier: Apache-2.0
"""Raises MissingPackageError on import if torch is not installed."""

from megatron_packing.needs.installed import require

require("torch", "torch", "torch>=2.6")
