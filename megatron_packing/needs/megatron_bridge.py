# SPDX-License-Identifier: Apache-2.0
"""Says that megatron-bridge is missing, where it is."""

from megatron_packing.needs.installed import require

require("megatron.bridge", "megatron-bridge", "megatron-bridge>=0.3.1")
