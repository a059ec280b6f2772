# SPDX-License-Identifier: Apache-2.0
"""Converts a SentencePiece model to a ``tokenizer.json`` that gives the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError

_SPACE = "\u2581"


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A model as a ``tokenizer.json``, and its other settings."""

    tokenizer_json: str
    special_tokens: dict[str, str]
    """``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, if the model has them."""
    text_prefix: str
    """What the model puts before a text: a space or nothing."""


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Convert a BPE model with byte fallback and no normalization, such as Llama 2's or Gemma's.

    Merges are ordered by the scores of the pieces; other converters use the order of the pieces.
    User-defined symbols are matched first, the longest of them before others. The space before the
    first word (``add_dummy_prefix``) is added to plain texts only; chat templates write their own.

    Raises:
        InputError: The model is of an unsupported kind, or protobuf does not fit sentencepiece.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ModuleNotFoundError:
        raise
    except Exception as error:  # releases of protobuf have different ones for it
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} is read with sentencepiece, which the installed protobuf does not fit "
            f"({reason}); install another with: pip install --upgrade --no-deps protobuf"
        ) from error
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    description = sentencepiece_model_pb2.ModelProto()
    description.ParseFromString(path.read_bytes())
    _check_kind(path, description)
    pieces = SentencePieceProcessor(model_file=str(path))
    numbers = range(len(pieces))
    kinds = [description.pieces[number].type for number in numbers]
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    defined = [number for number in numbers if kinds[number] == kind.USER_DEFINED]
    # User-defined symbols contain spaces; other pieces contain the space symbol instead.
    names = {
        number: pieces.id_to_piece(number).replace(_SPACE, " ")
        if kinds[number] == kind.USER_DEFINED
        else pieces.id_to_piece(number)
        for number in numbers
    }
    vocabulary = {name: number for number, name in names.items()}
    if len(vocabulary) != len(pieces):
        raise InputError(
            f"the SentencePiece model {path} defines two symbols that differ only in spaces; "
            f"convert it to a tokenizer.json with the tools of the model"
        )
    normal = {name for number, name in names.items() if kinds[number] == kind.NORMAL}
    # SentencePiece merges the two neighbors whose merged piece has the best score, and the leftmost
    # pair if scores are equal. Runs of spaces have equal scores, so they grow from the left.
    merges = [
        (-pieces.get_score(number), -len(piece), piece[:cut], piece[cut:])
        for piece, number in vocabulary.items()
        if kinds[number] == kind.NORMAL
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    unknown = pieces.id_to_piece(pieces.unk_id())
    model = models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = [number for number in numbers if kinds[number] in (kind.CONTROL, kind.UNKNOWN)]
    tokenizer.add_special_tokens(
        [AddedToken(names[number], special=True, normalized=False) for number in control]
    )
    tokenizer.add_tokens([AddedToken(names[number], normalized=False) for number in defined])
    ends = {
        "bos_token": pieces.bos_id(),
        "eos_token": pieces.eos_id(),
        "unk_token": pieces.unk_id(),
        "pad_token": pieces.pad_id(),
    }
    return SentencePieceModel(
        tokenizer_json=str(tokenizer.to_str()),
        special_tokens={name: names[number] for name, number in ends.items() if number >= 0},
        text_prefix=" " if description.normalizer_spec.add_dummy_prefix else "",
    )


def _check_kind(path: Path, description: Any) -> None:
    trainer, normalizer = description.trainer_spec, description.normalizer_spec
    unused = any(piece.type == piece.UNUSED for piece in description.pieces)
    reasons = {
        "it is not BPE": trainer.model_type != trainer.BPE,
        "it has no byte fallback": not trainer.byte_fallback,
        "it normalizes texts": normalizer.name not in ("identity", "")
        or bool(normalizer.precompiled_charsmap)
        or bool(normalizer.normalization_rule_tsv),
        "it removes extra white space": normalizer.remove_extra_whitespaces,
        "it does not escape spaces": not normalizer.escape_whitespaces,
        "it puts white space after words": trainer.treat_whitespace_as_suffix,
        "it has unused pieces": unused,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise InputError(
            f"the SentencePiece model {path} is of an unsupported kind ({', '.join(found)}); "
            f"convert it to a tokenizer.json with the tools of the model"
        )
