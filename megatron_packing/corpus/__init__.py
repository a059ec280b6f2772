# SPDX-License-Identifier: Apache-2.0
"""Corpora on disk: tokens, loss masks and lengths of many documents."""
