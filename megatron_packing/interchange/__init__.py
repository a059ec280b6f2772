# SPDX-License-Identifier: Apache-2.0
"""Packs in the file formats of NeMo and Megatron-Bridge, in both directions."""
