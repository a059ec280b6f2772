# SPDX-License-Identifier: Apache-2.0
"""Computes the endless order of packs, and records it in every checkpoint.

``order`` computes which pack a sample is, ``even_order`` the same for ranks that run like packs at
the same moment, ``record`` compares two runs.

May import: index, files, flops, errors.
"""
