# SPDX-License-Identifier: Apache-2.0
"""Refuses data paths, blends and splits with which Megatron would fail later."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

import megatron_packing.needs.megatron_training  # noqa: F401

from megatron.core.datasets.utils import Split
from megatron.training import print_rank_0

from megatron_packing.errors import InputError
from megatron_packing.megatron.blends import check_weight, is_number
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.versions import flag_value

Blend = tuple[list[str], list[float] | None]

_PATH_FLAGS = ("data_path", "train_data_path", "valid_data_path", "test_data_path")


def check_data_paths(args: Namespace) -> None:
    """Refuse lists of corpora and weights that Megatron would misread.

    Raises:
        InputError: Names the flag and what to give instead.
    """
    for name in _PATH_FLAGS:
        words = getattr(args, name, None) or []
        numbers = [is_number(word) for word in words]
        alternate = len(words) % 2 == 0 and numbers == [True, False] * (len(words) // 2)
        if any(numbers) and not alternate:
            flag = flag_of(name)
            raise InputError(
                f"{flag} is {' '.join(words)}; give only corpora, or a weight before each corpus: "
                f"{flag} 0.3 A 0.7 B"
            )


def check_data(config: PackedDatasetConfig, args: Namespace) -> None:
    """Refuse blends and splits with which Megatron would fail; disable evaluation without data.

    Args:
        config: The dataset config with its blends.
        args: Megatron's arguments. ``eval_iters`` is set to 0 if there is nothing to evaluate.

    Raises:
        InputError: Names the flag and what to give instead.
    """
    if config.mock:
        raise InputError(
            "no data path is given; give --data-path with --split, or --train-data-path and, for "
            "evaluations, --valid-data-path"
        )
    several_sets = flag_value(args, "multiple_validation_sets")
    for split, flag, (prefixes, weights) in _blends(config):
        if several_sets and split is Split.valid:
            _check_several_sets(config, args, flag, weights)
        else:
            _check_blend(flag, prefixes, weights)
        if config.packing_even_order and split in (None, Split.train) and len(prefixes) > 1:
            raise InputError(
                f"{flag} has {len(prefixes)} corpora, but --packing-order even orders the packs of "
                f"one: pack them together ({flag} {prefixes[0]},{prefixes[1]}), or give "
                f"--packing-order random"
            )
    if not args.skip_train and not _has(config, Split.train):
        raise InputError(
            "there are no training documents; give --train-data-path, or --data-path with a "
            "--split whose first number is greater than 0"
        )
    _settle_evaluation(config, args)


def _blends(config: PackedDatasetConfig) -> Iterator[tuple[Split | None, str, Blend]]:
    """Yield each blend with its split (None: all splits) and its flag."""
    if config.blend is not None:
        yield None, "--data-path", config.blend
    for split, blend in zip(Split, config.blend_per_split or [None] * len(Split), strict=True):
        if blend is not None:
            yield split, f"--{split.name}-data-path", blend


def _has(config: PackedDatasetConfig, split: Split) -> bool:
    """Whether the run uses a split."""
    if config.blend is not None:
        return config.split_matrix[split.value] is not None
    return config.blend_per_split[split.value] is not None


def _check_blend(flag: str, prefixes: Sequence[str], weights: Sequence[float] | None) -> None:
    if weights is None:
        if len(prefixes) > 1:
            example = " ".join(f"{1 / len(prefixes):.3g} {prefix}" for prefix in prefixes)
            raise InputError(
                f"{flag} names {len(prefixes)} corpora without weights, so Megatron would stop "
                f"after one epoch; give a weight before each ({flag} {example}), or pack "
                f"them together ({flag} {','.join(prefixes)})"
            )
        return
    for prefix, weight in zip(prefixes, weights, strict=True):
        check_weight(flag, prefix, weight, "corpus")


def _check_several_sets(
    config: PackedDatasetConfig, args: Namespace, flag: str, weights: Sequence[float] | None
) -> None:
    if weights is not None:
        raise InputError(
            f"{flag} gives weights, but --multiple-validation-sets evaluates each set separately; "
            f"leave the weights out"
        )
    if not args.full_validation:
        raise InputError(
            "--multiple-validation-sets needs --full-validation in Megatron: give both flags"
        )
    if _has(config, Split.test):
        raise InputError(
            "--multiple-validation-sets is given with test documents, but Megatron then fails when "
            "it evaluates them after training; leave out --test-data-path"
        )


def _settle_evaluation(config: PackedDatasetConfig, args: Namespace) -> None:
    """Disable evaluation without validation documents; Megatron looks at --eval-iters only."""
    if _has(config, Split.valid):
        return
    if args.full_validation:
        raise InputError(
            "--full-validation is given, but there are no validation documents; give "
            "--valid-data-path, or leave the flag out"
        )
    if not args.eval_iters:
        return
    if _has(config, Split.test):
        raise InputError(
            f"there are test documents but no validation documents, and Megatron reads the "
            f"--eval-iters {args.eval_iters} batches from both; give validation documents "
            f"(--split or --valid-data-path), or no test documents"
        )
    print_rank_0(
        f"> there are no validation documents, so --eval-iters is set from {args.eval_iters} to 0"
    )
    args.eval_iters = 0
