# SPDX-License-Identifier: Apache-2.0
"""Prints results for people: tables, progress, packs and documents, and the same as JSON.

May import: simulate, probe, isolation, stream, index, planning, corpus, tokenize, tokenizers,
schemas, files, flops, counted, errors.
"""
