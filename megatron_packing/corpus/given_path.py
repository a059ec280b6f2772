# SPDX-License-Identifier: Apache-2.0
"""Advises users who gave another path in place of a corpus or a pack index."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from megatron_packing.corpus.loss_mask import LOSS_MASK_SUFFIX

_MANIFEST = "manifest.json"
_INDEX, _DATA = ".idx", ".bin"
_NAMED = 5


def advise_for_corpus(given: Path) -> str | None:
    """Say what a path is that is not the prefix of a corpus; None if that is unknown."""
    with suppress(OSError):  # for example if the folder cannot be read
        return _describe_for_corpus(given)
    return None


def advise_for_index(given: Path) -> str | None:
    """Say what a path is that is not a pack index; None if that is unknown."""
    with suppress(OSError):
        return _describe_for_index(given)
    return None


def _describe_for_corpus(given: Path) -> str | None:
    if _is_corpus(given):
        return None
    if (prefix := _prefix_of_file(given)) is not None:
        return f"{given} is a file of the corpus {prefix}: give {prefix}"
    if given.is_dir():
        if (given / _MANIFEST).exists():
            return f"{given} is a pack index, not a corpus: give the prefix of a corpus"
        corpora = _prefixes_in(given)
        if corpora:
            return f"{given} is a folder: give the prefix of a corpus in it: {_list(corpora)}"
        return f"{given} is a folder without a corpus (.bin and .idx files)"
    return _advise_on_file(given)


def _describe_for_index(given: Path) -> str | None:
    prefix = given if _is_corpus(given) else _prefix_of_file(given)
    if prefix is not None:
        return f"{given} is a corpus: {_pack(prefix)}"
    if given.name == _MANIFEST and given.is_file():
        return f"{given} is a file of the pack index {given.parent}: give {given.parent}"
    if given.is_dir():
        indexes = sorted(path.parent for path in given.glob(f"*/{_MANIFEST}"))
        if indexes:
            return f"{given} is a folder that holds the pack indexes {_list(indexes)}: give one"
        corpora = _prefixes_in(given)
        if corpora:
            held = "the corpus" if len(corpora) == 1 else "the corpora"
            return f"{given} is a folder that holds {held} {_list(corpora)}: {_pack(corpora[0])}"
        return None
    return _advise_on_file(given)


def _advise_on_file(given: Path) -> str | None:
    if not given.is_file():
        return None
    if given.suffix == ".npy":
        return (
            f"{given} is a NumPy file; if it holds lengths, pack it with --lengths {given}; "
            f"if it holds packed sequences, make a corpus of it with: megatron-packing import "
            f"{given} --output-prefix PREFIX"
        )
    return (
        f"{given} is a file; if it holds conversations or texts, make a corpus of it with: "
        f"megatron-packing tokenize {given} --output-prefix PREFIX --tokenizer TOKENIZER"
    )


def _pack(prefix: Path) -> str:
    return f"make one with: megatron-packing pack {prefix} --sequence-length L --output DIR"


def _is_corpus(prefix: Path) -> bool:
    return prefix.name != "" and prefix.with_name(prefix.name + _INDEX).is_file()


def _prefix_of_file(given: Path) -> Path | None:
    """Return the corpus that a ``.bin`` or ``.idx`` file, also of a loss mask, belongs to."""
    if given.suffix not in (_INDEX, _DATA) or not given.is_file():
        return None
    prefix = given.with_suffix("")
    masked = prefix.with_name(prefix.name.removesuffix(LOSS_MASK_SUFFIX))
    return next((path for path in (masked, prefix) if _is_corpus(path)), None)


def _prefixes_in(folder: Path) -> list[Path]:
    """Return the corpora in a folder, without loss masks."""
    prefixes = {path.with_suffix("") for path in folder.glob(f"*{_INDEX}")}
    masks = {path.with_name(path.name + LOSS_MASK_SUFFIX) for path in prefixes}
    return sorted(prefixes - masks)


def _list(paths: list[Path]) -> str:
    more = len(paths) - _NAMED
    named = ", ".join(str(path) for path in paths[:_NAMED])
    return named + (f" and {more:,} more" if more > 0 else "")
