# SPDX-License-Identifier: Apache-2.0
"""Builds, writes, reads and verifies pack indexes.

May import: planning, corpus, files, counted, errors. Does not import torch or Megatron.
"""
