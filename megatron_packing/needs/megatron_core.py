"""Says that megatron-core is missing, where it is."""

from megatron_packing.needs.installed import require

require("megatron.core", "megatron-core", "megatron-core>=0.16.1")
