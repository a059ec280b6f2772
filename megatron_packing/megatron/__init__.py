"""Datasets, flags, batches, loss and layer spec for Megatron; imports megatron-core."""
