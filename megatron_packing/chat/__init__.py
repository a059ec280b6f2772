# SPDX-License-Identifier: Apache-2.0
"""Renders conversations by a chat template, and finds which parts of the text are trained.

``turns`` decides which text and which end of it are trained: in ``marked_spans`` for templates with
marks, in ``prefix_spans`` for others. ``render_limits`` bounds what a template may do.

May import: schemas, records, tokenizers, errors. Does not import torch or Megatron.
"""
