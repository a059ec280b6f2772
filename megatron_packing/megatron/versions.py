# SPDX-License-Identifier: Apache-2.0
"""Which versions of megatron-core this release was tested with, and what it says about others."""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import sys

import megatron.core
from megatron.core.utils import log_single_rank

from megatron_packing.errors import InputError

TESTED = ("0.16.1", "0.17.1", "0.18.2", "0.19.2")
"""Dataset, batch, loss and attention were tested with these, ``pretrain()`` with the last."""
_OLDEST = (0, 16, 1)
_WITH_TRAINER = (0, 19)

logger = logging.getLogger(__name__)


def core_version() -> tuple[int, int]:
    """The major and minor version of megatron-core.

    Raises:
        InputError: Its version does not begin with two numbers.
    """
    return _numbers()[:2]


def require_trainer() -> None:
    """End the process with one sentence where Megatron's ``pretrain()`` is missing or older.

    A script that gives ``pretrain()`` the model's configuration, as it takes it from 0.19 on, calls
    this before it imports ``megatron.training``.
    """
    try:
        problem = _trainer_problem()
    except InputError as error:
        problem = str(error)
    if problem:
        sys.exit(f"error: {problem}")


def describe_untested_trainer() -> str | None:
    """One line for the log where ``pretrain()`` is of a version that was not tested, or None.

    Such a version is not refused: many sites build Megatron on their own.
    """
    if core_version() == _WITH_TRAINER:
        return None
    return (
        f"> warning: megatron-core is {megatron.core.__version__}, and packed training was tested "
        f"with {TESTED[-1]}: flags of other versions may be ignored on packed rows, so compare the "
        f"first losses with those of an unpacked run"
    )


@functools.cache
def warn_if_older_than_tested() -> None:
    """Log one warning, on the first rank, where megatron-core is older than all tested versions.

    Nothing that is installed with this package holds megatron-core to a version.
    """
    if _numbers() < _OLDEST:
        log_single_rank(
            logger,
            logging.WARNING,
            f"megatron-core is {megatron.core.__version__}, and packed rows were tested with "
            f"{TESTED[0]} and later: use one of {', '.join(TESTED)}, or compare the first losses "
            f"with those of an unpacked run",
        )


def _trainer_problem() -> str | None:
    found = f"megatron-core {megatron.core.__version__} is installed"
    if core_version() < _WITH_TRAINER:
        return (
            f"{found}, but this script calls pretrain() as megatron-core 0.19 defines it: install "
            f"megatron-core {TESTED[-1]}; with {', '.join(TESTED[:-1])} the dataset, the batches, "
            f"the loss and the attention of megatron_packing serve a loop of your own"
        )
    if importlib.util.find_spec("megatron.training") is None:
        return (
            f"{found} without megatron.training, Megatron's trainer: install the wheel of "
            f"megatron-core {TESTED[-1]}, or put a checkout of Megatron-LM on PYTHONPATH"
        )
    return None


def _numbers() -> tuple[int, int, int]:
    text = str(getattr(megatron.core, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if numbers is None:
        raise InputError(
            f"the version of megatron-core is {text!r}, so it cannot be known what it does with "
            f"packed rows; install a release of it, such as {TESTED[-1]}"
        )
    return int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)
