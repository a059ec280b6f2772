# SPDX-License-Identifier: Apache-2.0
"""Real conversations and a real tokenizer, from packages of the registry.

    python examples/chitchat.py DIR

writes DIR/conversations.jsonl, the 4,008 conversations of two or more turns, none of them blank, of
the Chit Chat Challenge (package chitchat-dataset, MIT license), in OpenAI's schema; and
DIR/tokenizer, the 32,768 pieces of Mistral 7B Instruct v0.3 (package mistral-common, Apache-2.0) as
a Hugging Face tokenizer with that model's chat format.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution
from pathlib import Path

from megatron_packing.tokenizers.sentencepiece_model import read_sentencepiece

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
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    source = Path(str(distribution("mistral-common").locate_file(MODEL_FILE)))
    tokenizer = Tokenizer.from_str(read_sentencepiece(source).tokenizer_json)
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
