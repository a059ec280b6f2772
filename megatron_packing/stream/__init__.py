# SPDX-License-Identifier: Apache-2.0
"""Computes the endless order of packs, and records it in every checkpoint.

May import: index, files, errors.
"""
