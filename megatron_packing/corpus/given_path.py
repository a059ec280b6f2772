# SPDX-License-Identifier: Apache-2.0
"""Says what a path is that was given where a corpus or a pack index belongs, and what would do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_MANIFEST = "manifest.json"
_INDEX, _DATA = ".idx", ".bin"
_LOSS_MASK = "_loss_mask"
_NAMED = 5


def advise_for_corpus(given: Path) -> str | None:
    """What is at a path that is no prefix of a corpus; None where nothing is known of it."""
    with suppress(OSError):  # such as of a folder that may not be read
        return _describe_for_corpus(given)
    return None


def advise_for_index(given: Path) -> str | None:
    """What is at a path that is no pack index; None where nothing is known of it."""
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
        return f"{given} is a folder without a corpus, that is without .bin and .idx files"
    return _advise_on_file(given)


def _describe_for_index(given: Path) -> str | None:
    prefix = given if _is_corpus(given) else _prefix_of_file(given)
    if prefix is not None:
        return f"{given} is a corpus: {_pack(prefix)}"
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
            f"{given} is a file of numpy's; if it holds lengths, pack it with --lengths {given}; "
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
    """The corpus that a ``.bin`` or ``.idx`` file belongs to, its loss mask's files too."""
    if given.suffix not in (_INDEX, _DATA) or not given.is_file():
        return None
    prefix = given.with_suffix("")
    masked = prefix.with_name(prefix.name.removesuffix(_LOSS_MASK))
    return next((path for path in (masked, prefix) if _is_corpus(path)), None)


def _prefixes_in(folder: Path) -> list[Path]:
    """The corpora in a folder, loss masks left out."""
    prefixes = {path.with_suffix("") for path in folder.glob(f"*{_INDEX}")}
    masks = {path.with_name(path.name + _LOSS_MASK) for path in prefixes}
    return sorted(prefixes - masks)


def _list(paths: list[Path]) -> str:
    more = len(paths) - _NAMED
    named = ", ".join(str(path) for path in paths[:_NAMED])
    return named + (f" and {more:,} more" if more > 0 else "")
