# SPDX-License-Identifier: Apache-2.0
"""Datasets, flags, batches, loss and layer spec for Megatron; imports megatron-core."""
