"""Turns a SentencePiece model into a ``tokenizer.json`` that gives the same tokens."""

from __future__ import annotations

from pathlib import Path

from megatron_packing.errors import InputError


def to_tokenizer_json(path: Path) -> str:
    """Convert a BPE model with byte fallback and no normalisation, as Llama 2's and Mistral's.

    Each word is merged by the scores of the pieces, where other converters go by their order. The
    space before the first word (``add_dummy_prefix``) is left to the chat template; a plain text
    gets it.

    Raises:
        InputError: The model is of another kind.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    description = sentencepiece_model_pb2.ModelProto()
    description.ParseFromString(path.read_bytes())
    trainer, normaliser = description.trainer_spec, description.normalizer_spec
    if (
        trainer.model_type != trainer.BPE
        or not trainer.byte_fallback
        or normaliser.name not in ("identity", "")
        or normaliser.remove_extra_whitespaces
    ):
        raise InputError(
            f"the SentencePiece model {path} is not BPE with byte fallback and without "
            f"normalisation; convert it to a tokenizer.json with the model's own tools"
        )
    pieces = SentencePieceProcessor(model_file=str(path))
    vocabulary = {pieces.id_to_piece(number): number for number in range(len(pieces))}
    # SentencePiece joins the two neighbours whose whole has the best score, the leftmost of equals:
    # runs of spaces, whose scores are equal, grow from the left as long as there is a longer piece.
    merges = [
        (-pieces.get_score(number), -len(piece), piece[:cut], piece[cut:])
        for piece, number in vocabulary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    model = models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(pieces.id_to_piece(number), special=True, normalized=False)
            for number in range(len(pieces))
            if pieces.is_control(number) or pieces.is_unknown(number)
        ]
    )
    return str(tokenizer.to_str())
