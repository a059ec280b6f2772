# SPDX-License-Identifier: Apache-2.0
"""Exports packs to the file formats of NeMo and Megatron-Bridge, and imports them.

``export`` and ``import_packed`` are the two directions; ``parquet_file`` and ``npy_file`` write and
read the formats.

May import: index, corpus, files, counted, errors. Does not import torch or Megatron.
"""
