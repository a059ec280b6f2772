# SPDX-License-Identifier: Apache-2.0
"""Makes the corpora of the study: what a model is trained on first, tuned on, and measured on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_packing import Corpus
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.tokenize.run import TokenizeOptions, tokenize

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- ('' if loop.first else '\n') + '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
"""
END, START, END_OF_TEXT = "<|im_end|>", "<|im_start|>", "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Data:
    """Corpora in a folder."""

    folder: Path
    end_token: int

    @property
    def training(self) -> Path:
        """Prefix of the documents that a model is tuned on."""
        return self.folder / "training"

    @property
    def training_with_end(self) -> Path:
        """Prefix of the same documents, each with another end token, which is not trained."""
        return self.folder / "training_with_end"

    @property
    def held_out(self) -> Path:
        """Prefix of the documents that losses are measured on."""
        return self.folder / "held_out"


def make_tokenizer(folder: Path, texts: Iterator[str], vocabulary: int) -> None:
    """Train byte-level BPE on texts and save it as a Hugging Face tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)


def read_conversations(path: Path) -> Iterator[dict]:
    """Yield the records of a JSON Lines file that are in English, to the extent that ASCII is."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            text = text_of(record)
            if sum(map(str.isascii, text)) >= 0.99 * len(text):
                yield record


def text_of(record: dict) -> str:
    """Return the contents of a record's messages."""
    return "\n".join(str(message["content"]) for message in record["messages"])


def prepare(
    folder: Path, tokenizer: Path, sources: list[Path], documents: int, held_out: int, longest: int
) -> Data:
    """Tokenize records and write the corpora, unless they exist.

    Args:
        folder: A folder for this data alone.
        tokenizer: The folder of a tokenizer with a chat template.
        sources: JSON Lines of conversations; each gives as many documents as the others.
        documents: The number of documents to train on.
        held_out: The number of documents to measure on.
        longest: The most positions of a document; longer ones are left out.
    """
    eos = json.loads((tokenizer / "tokenizer_config.json").read_text())["eos_token"]
    data = Data(folder, _token_id(tokenizer, eos if isinstance(eos, str) else eos["content"]))
    if folder.exists():
        return data
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    training, measured = [], []
    for number, source in enumerate(sources):
        records = temporary / f"source_{number}.jsonl"
        with records.open("w", encoding="utf-8") as file:
            for record in read_conversations(source):
                file.write(json.dumps({"messages": record["messages"]}) + "\n")
        prefix = temporary / f"source_{number}"
        tokenize(
            TokenizeOptions(
                inputs=[records],
                output_prefix=prefix,
                tokenizer=str(tokenizer),
                allow_other_template=True,  # answers end with the token that ends all messages
            )
        )
        corpus = Corpus(prefix)
        fits = np.flatnonzero((corpus.num_tokens >= 2) & (corpus.num_tokens - 1 < longest))
        trained = [one for one in fits.tolist() if corpus.loss_mask(one).any()]
        chosen = np.random.default_rng(number).permutation(trained).tolist()
        share, measured_share = documents // len(sources), held_out // len(sources)
        if len(chosen) < share + measured_share:
            raise SystemExit(f"error: {source} has {len(chosen)} usable records; more are needed")
        measured += [(corpus, one) for one in chosen[:measured_share]]
        training += [(corpus, one) for one in chosen[measured_share : measured_share + share]]
    _write(temporary / data.training.name, training)
    _write(temporary / data.training_with_end.name, training, end_token=data.end_token)
    _write(temporary / data.held_out.name, measured)
    temporary.rename(folder)
    return data


def _token_id(tokenizer: Path, token: str) -> int:
    added = json.loads((tokenizer / "tokenizer.json").read_text())["added_tokens"]
    return next(one["id"] for one in added if one["content"] == token)


def _write(prefix: Path, chosen: list[tuple[Corpus, int]], end_token: int | None = None) -> None:
    """Write documents, each followed by ``end_token`` if there is one, and their loss masks."""
    extra = [] if end_token is None else [end_token]
    masks = Path(f"{prefix}_loss_mask")
    with (
        IndexedDatasetWriter(prefix, np.dtype(np.int32)) as tokens,
        IndexedDatasetWriter(masks, np.dtype(np.uint8)) as trained,
    ):
        for corpus, document in chosen:
            values = np.concatenate([corpus.tokens(document).astype(np.int32), extra])
            mask = np.concatenate([corpus.loss_mask(document), [0] * len(extra)])
            length = np.array([len(values)], np.int64)
            tokens.add(values, length)
            trained.add(mask, length)
