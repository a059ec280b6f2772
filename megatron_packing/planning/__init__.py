# SPDX-License-Identifier: Apache-2.0
"""Plans packs from the lengths of documents. This is the Python interface of the native core.

``plan.py`` has plans of a corpus, ``step.py`` those of one training step, ``rows.py`` how much work
the packs of a plan are.

May import: counted, errors, and the modules that setup.py builds. Knows lengths only, not corpora.
"""
