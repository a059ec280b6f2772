# SPDX-License-Identifier: Apache-2.0
"""Shows whether the documents of a row see each other in a model.

Here is what every such check needs, and the check of Hugging Face's causal models. The check of a
run of Megatron is in ``megatron``.

May import: needs, counted, errors. Uses torch, and transformers where a model is built.
"""
