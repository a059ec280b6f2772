# SPDX-License-Identifier: Apache-2.0
"""Lays out packs as rows of tokens (THD format) and computes attention over them.

May import: corpus, index, planning, stream, needs, counted, errors. Uses torch only where a tensor
is the result.
"""
