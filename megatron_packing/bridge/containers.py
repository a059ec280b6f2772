# SPDX-License-Identifier: Apache-2.0
"""Passes the run's settings to a dataset provider, which Bridge does not do.

Bridge gives a provider the number of samples, the tokenizer and, from 0.4 on, the process groups.
Whether rows fit the run depends on the whole ``ConfigContainer``. Every entry point of Bridge
(``pretrain``, ``finetune``) validates it once before training, after command-line overrides and
also for recipes in YAML. So this module makes ``ConfigContainer.validate`` pass itself to the
provider.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol, runtime_checkable

import megatron_packing.needs.megatron_bridge  # noqa: F401

from megatron.bridge.training.config import ConfigContainer


@runtime_checkable
class SeesSettings(Protocol):
    """A ``cfg.dataset`` that checks all settings of its run."""

    def see_settings(self, cfg: Any) -> None:
        """Keep the settings, and refuse those that cannot be trained."""


def show_settings_when_validated() -> None:
    """Make ``ConfigContainer.validate`` call ``cfg.dataset.see_settings(cfg)`` first, if any."""
    validate = ConfigContainer.validate
    if getattr(validate, "_shows_settings", False):
        return

    @functools.wraps(validate)
    def show_and_validate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.dataset, SeesSettings):
            self.dataset.see_settings(self)
        return validate(self, *args, **kwargs)

    show_and_validate._shows_settings = True  # type: ignore[attr-defined]
    ConfigContainer.validate = show_and_validate
