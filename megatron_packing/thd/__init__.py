# SPDX-License-Identifier: Apache-2.0
"""Packs as rows of tokens (THD), and attention over them."""
