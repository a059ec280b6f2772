# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

def plan_packs(
    lengths: NDArray[Any],
    sequence_length: int,
    strategy: str,
    effort: str,
    alignment: int,
    max_documents_per_pack: int,
    overlong: str,
    min_packs: int,
    packs_multiple_of: int,
    seed: int,
    progress: Callable[[float], None] | None,
) -> dict[str, Any]: ...
def permute(index: int, size: int, key: int) -> int: ...
def epoch_key(seed: int, epoch: int) -> int: ...
def balance(costs: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]: ...
