# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of layers, rows and epochs.

``model`` has a model's operations, ``layers`` those of each kind of layer, ``models`` known models.

May import: errors.
"""
