# SPDX-License-Identifier: Apache-2.0
"""Renders conversations by a chat template, and finds which parts of the text are trained.

May import: schemas, records, tokenizers, errors. Does not import torch or Megatron.
"""
