# SPDX-License-Identifier: Apache-2.0
"""Sequence packing for Megatron-style trainers. This is the public API."""

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.plan import STRATEGIES, PackPlan, plan_packs

__all__ = ["STRATEGIES", "Corpus", "PackIndex", "PackPlan", "plan_packs"]
__version__ = "0.1.0"
