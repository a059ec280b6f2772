"""Real conversations and a real tokenizer, from packages of the registry.

    python examples/chitchat.py DIR

writes DIR/conversations.jsonl, the 4,008 conversations of two or more turns, none of them blank, of
the Chit Chat Challenge (package chitchat-dataset, MIT licence), in OpenAI's schema; and
DIR/tokenizer, the 32,768 pieces of Mistral 7B Instruct v0.3 (package mistral-common, Apache-2.0) as
a Hugging Face tokenizer with that model's chat format.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution
from pathlib import Path

# <s>[INST] question[/INST] answer</s>[INST] ....
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {%- generation %}
        {{- ' ' + message.content.rstrip(' ') + eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- raise_exception('this format has no place for the role ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
MODEL_FILE = "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3"


def write_conversations(path: Path) -> int:
    """Write the conversations as JSON Lines; the one who opens is the user. Returns how many."""
    import chitchat_dataset

    count = 0
    with path.open("w", encoding="utf-8") as file:
        for conversation in chitchat_dataset.Dataset().values():
            turns = ["\n".join(part["text"] for part in turn) for turn in conversation["messages"]]
            if len(turns) < 2 or not all(turn.strip() for turn in turns):
                continue
            messages = [
                {"role": ("user", "assistant")[number % 2], "content": turn}
                for number, turn in enumerate(turns)
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer as a folder that transformers and Megatron load."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    source = distribution("mistral-common").locate_file(MODEL_FILE)
    pieces = SentencePieceProcessor(model_file=str(source))
    vocabulary = {pieces.id_to_piece(number): number for number in range(len(pieces))}
    # SentencePiece joins the two neighbours whose whole has the best score.
    merges = [
        (-pieces.get_score(number), piece[:cut], piece[cut:])
        for piece, number in vocabulary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    pairs = [(left, right) for _, left, right in sorted(merges)]
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
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def main() -> None:
    """Write both."""
    if len(sys.argv) != 2:
        sys.exit("usage: chitchat.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    count = write_conversations(folder / "conversations.jsonl")
    write_tokenizer(folder / "tokenizer")
    print(f"{folder}: {count:,} conversations and a tokenizer")


if __name__ == "__main__":
    main()
