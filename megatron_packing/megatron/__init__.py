# SPDX-License-Identifier: Apache-2.0
"""Datasets, flags, batches, loss and layer spec for Megatron; imports megatron-core."""

import megatron_packing.needs.megatron_core
import megatron_packing.needs.torch  # noqa: F401
