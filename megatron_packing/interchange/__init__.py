# SPDX-License-Identifier: Apache-2.0
"""Exports packs to the file formats of NeMo and Megatron-Bridge, and imports them.

May import: index, corpus, files, counted, errors. Does not import torch or Megatron.
"""
