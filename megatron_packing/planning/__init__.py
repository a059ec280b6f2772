# SPDX-License-Identifier: Apache-2.0
"""Plans packs from the lengths of documents. This is the Python interface of the native core.

May import: errors, and the modules that setup.py builds. Knows lengths only, not corpora.
"""
