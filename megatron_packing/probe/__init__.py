# SPDX-License-Identifier: Apache-2.0
"""Measures how much documents of a pack attend to earlier ones where no mask prevents it.

May import: corpus, needs, errors. Uses torch and transformers where a model is loaded or run.
"""
