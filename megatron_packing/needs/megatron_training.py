# SPDX-License-Identifier: Apache-2.0
"""Raises MissingPackageError on import if Megatron's trainer is not installed."""

from megatron_packing.needs.installed import require

require("megatron.training", "Megatron's trainer", "megatron-core>=0.19")
