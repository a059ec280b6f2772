# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from files or by name, and texts to tokens."""
