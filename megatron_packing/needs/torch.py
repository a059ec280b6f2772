# SPDX-License-Identifier: Apache-2.0
"""Says that torch is missing, where it is."""

from megatron_packing.needs.installed import require

require("torch", "torch", "torch>=2.6")
