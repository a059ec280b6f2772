# SPDX-License-Identifier: Apache-2.0
"""Predicts the time of training steps from the lengths of documents alone.

``deal`` puts rows on data-parallel ranks, ``costs`` turns their work into seconds of a model on a
GPU, ``schedule`` has the order in which pipeline stages compute, ``play`` plays it. ``step`` joins
them, ``epoch`` predicts one way to batch, and ``choose`` finds a layout.

May import: stream, planning, flops, errors, counted. Knows lengths only, not corpora, and needs
numpy alone.
"""
