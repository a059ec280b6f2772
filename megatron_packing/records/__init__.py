# SPDX-License-Identifier: Apache-2.0
"""Finds input files and reads single records from them, from local disks and object stores.

May import: errors, counted. Does not know schemas, tokenizers or corpora.
"""
