# SPDX-License-Identifier: Apache-2.0
"""Says that megatron-core is missing, where it is."""

from megatron_packing.needs.installed import require

require("megatron.core", "megatron-core", "megatron-core>=0.16.1")
