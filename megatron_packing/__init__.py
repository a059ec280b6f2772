# SPDX-License-Identifier: Apache-2.0
"""Sequence packing for Megatron-style trainers. This is the public API."""

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.plan import PackPlan, plan_packs
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.step import StepPlan, plan_step
from megatron_packing.planning.strategies import STRATEGIES

__all__ = [
    "STRATEGIES",
    "Corpus",
    "PackIndex",
    "PackPlan",
    "PlanSettings",
    "StepPlan",
    "plan_packs",
    "plan_step",
]
__version__ = "0.1.0"  # the only place; pyproject.toml reads it
