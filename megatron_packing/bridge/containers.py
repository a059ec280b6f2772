# SPDX-License-Identifier: Apache-2.0
"""Lets a dataset provider see the settings of its run, which Bridge does not hand it.

Bridge tells a provider how many samples are asked for, the tokenizer and, from 0.4 on, the process
groups. Whether rows fit the run depends on more: on ``ConfigContainer``, which every entry of
Bridge (``pretrain``, ``finetune``) validates once before it trains, after command-line overrides
and for recipes that were read from YAML too. So ``ConfigContainer.validate`` shows itself to the
provider here.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol, runtime_checkable

import megatron_packing.needs.megatron_bridge  # noqa: F401

from megatron.bridge.training.config import ConfigContainer


@runtime_checkable
class SeesSettings(Protocol):
    """A ``cfg.dataset`` that looks at all settings."""

    def see_settings(self, cfg: Any) -> None:
        """Take note of the settings, and refuse what cannot be trained."""


def show_settings_when_validated() -> None:
    """Let ``ConfigContainer.validate`` call ``cfg.dataset.see_settings(cfg)`` first, if it can."""
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
