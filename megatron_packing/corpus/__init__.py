# SPDX-License-Identifier: Apache-2.0
"""Reads and writes corpora: the tokens, loss masks and lengths of many documents on disk.

May import: files, errors, counted. Does not import torch or Megatron.
"""
