# SPDX-License-Identifier: Apache-2.0
"""Raises MissingPackageError on import if megatron-bridge is not installed."""

from megatron_packing.needs.installed import require

require("megatron.bridge", "megatron-bridge", "megatron-bridge>=0.3.1")
