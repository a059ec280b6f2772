# SPDX-License-Identifier: Apache-2.0
"""For Megatron-Bridge: pack indexes in its recipes."""
