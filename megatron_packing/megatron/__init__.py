# SPDX-License-Identifier: Apache-2.0
"""Datasets, flags, batches, loss and layer specs for Megatron.

``arguments`` adds flags. ``checks`` refuses what trains wrongly; ``flags`` has the list.
``trainer`` has what pretrain() takes. ``stream`` compares a resumed run with its checkpoint.

May import: thd, isolation, stream, ranks, index, planning, corpus, tokenizers, files, needs,
counted, errors. Imports megatron-core, and megatron.training in the modules that pretrain() needs.
"""

import megatron_packing.needs.megatron_core
import megatron_packing.needs.torch  # noqa: F401
