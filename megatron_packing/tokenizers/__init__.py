# SPDX-License-Identifier: Apache-2.0
"""Finds tokenizers in files or by name, and tokenizes texts with them.

May import: corpus, errors. Does not import torch or Megatron.
"""
