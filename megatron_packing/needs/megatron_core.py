# SPDX-License-Identifier: Apache-2.0
"""Raises MissingPackageError on import if megatron-core is not installed."""

from megatron_packing.needs.installed import require

require("megatron.core", "megatron-core", "megatron-core>=0.16.1")
