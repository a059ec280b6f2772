# SPDX-License-Identifier: Apache-2.0
"""Computes the endless order of packs, and records it in every checkpoint.

``order`` computes which pack a sample is, ``record`` compares two runs.

May import: index, files, errors.
"""
