from typing import Any

import numpy as np
from numpy.typing import NDArray

def plan_packs(
    lengths: NDArray[Any],
    sequence_length: int,
    strategy: str,
    overlong: str,
    packs_multiple_of: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
def permute(index: int, size: int, key: int) -> int: ...
def epoch_key(seed: int, epoch: int) -> int: ...
def balance(costs: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]: ...
