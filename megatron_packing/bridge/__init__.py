# SPDX-License-Identifier: Apache-2.0
"""Trains Megatron-Bridge recipes on pack indexes.

May import: megatron, thd, stream, ranks, report, index, corpus, needs, counted, errors. Imports
megatron-bridge.
"""
