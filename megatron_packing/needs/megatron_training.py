# SPDX-License-Identifier: Apache-2.0
"""Says that Megatron's trainer is missing, where it is."""

from megatron_packing.needs.installed import require

require("megatron.training", "Megatron's trainer", "megatron-core>=0.19")
