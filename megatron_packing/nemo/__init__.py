# SPDX-License-Identifier: Apache-2.0
"""For NeMo: pack indexes in Megatron-Bridge recipes, and its packed files in both directions."""
