"""Packs as samples of a Megatron dataset."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
from megatron.core.datasets.megatron_dataset import MegatronDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.order import pack_at
from megatron_packing.index.pack_index import MANIFEST, PackIndex, PlanSettings, Segments
from megatron_packing.index.plan import STRATEGIES
from megatron_packing.thd.layout import lay_out

logger = logging.getLogger(__name__)

_CACHE_FOLDER = "pack_indexes"
# What rank 0 wrote may show on a network file system after this long only.
_VISIBLE_AFTER_SECONDS = 120


@dataclass
class PackedDatasetConfig(GPTDatasetConfig):
    """GPTDatasetConfig and how its corpora are packed."""

    packing_strategy: str = "optimal"
    """One of ``megatron_packing.STRATEGIES``."""
    packing_overlong: str = "error"
    """What happens to documents longer than a row: error, drop, truncate or split."""
    packing_max_documents_per_pack: int | None = None
    """At most so many documents in a row."""
    packing_packs_multiple_of: int = 1
    """Packs are divided until their number is a multiple of this."""
    packing_indexes: tuple[str, ...] = ()
    """Pack indexes made beforehand. Where one holds the documents of a split it is used, plan and
    all; where none does, that is an error. Empty: indexes are made in ``path_to_cache``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packing_strategy not in STRATEGIES:
            raise ValueError(
                f"packing_strategy is {self.packing_strategy!r}; use one of {', '.join(STRATEGIES)}"
            )
        if self.create_attention_mask:
            raise ValueError(
                "create_attention_mask is on, but cu_seqlens take the mask's place; "
                "give --no-create-attention-mask-in-dataloader"
            )


class PackedDataset(MegatronDataset):
    """Rows of packed documents. Sample i is a function of the pack index, the seed and i alone.

    Each sample is a dict of tensors:

        tokens, labels, position_ids   int64, (sequence_length,)
        loss_mask                      float32, (sequence_length,)
        cu_seqlens                     int32, the same width for every sample
        max_seqlen                     int32, ()

    Build it with Megatron's ``BlendedMegatronDatasetBuilder``, which calls it with the corpus, the
    documents of one split, and how many samples training will ask for.
    """

    def __init__(
        self,
        dataset: Corpus | JoinedCorpus,
        dataset_path: str | None,
        indices: np.ndarray,
        num_samples: int | None,
        index_split: Split,
        config: PackedDatasetConfig,
    ) -> None:
        super().__init__(dataset, dataset_path, indices, num_samples, index_split, config)
        if indices is None:
            raise InputError(
                "--dataloader-fast-cache-load gives no documents to pack; leave it out "
                "(pack indexes are memory-mapped and load at once)"
            )
        if len(indices) == 0:
            raise InputError(
                f"the {index_split.name} split of {dataset_path} holds no documents; "
                f"change --split or give more documents"
            )
        self.corpus = dataset
        documents = range(int(indices[0]), int(indices[-1]) + 1)
        self.index = _find_index(dataset, documents, config)
        self._cu_seqlens_width = self.index.figures.max_documents_per_pack + 2
        self._tail_token = max(0, self._pad_token_id or 0)  # any token of the vocabulary will do

    @staticmethod
    def numel_low_level_dataset(low_level_dataset: Corpus | JoinedCorpus) -> int:
        """Documents of a corpus."""
        return len(low_level_dataset)

    @staticmethod
    def build_low_level_dataset(
        dataset_path: str,
        config: PackedDatasetConfig,  # noqa: ARG004  # Megatron gives it
    ) -> Corpus | JoinedCorpus:
        """Open a corpus, or several that are packed together: ``A,B:2``."""
        return open_corpus(dataset_path)

    @staticmethod
    def _key_config_attributes() -> list[str]:
        return [
            *MegatronDataset._key_config_attributes(),
            "packing_strategy",
            "packing_overlong",
            "packing_max_documents_per_pack",
            "packing_packs_multiple_of",
            "packing_indexes",
        ]

    def __len__(self) -> int:
        """Samples that were asked for, over as many epochs as that takes; else one epoch."""
        return len(self.index) if self.num_samples is None else self.num_samples

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Lay sample ``idx`` out."""
        layout = lay_out(
            self.corpus,
            self._segments(idx),
            self.config.sequence_length,
            self._cu_seqlens_width,
            self._tail_token,
        )
        return {
            "tokens": torch.from_numpy(layout.tokens),
            "labels": torch.from_numpy(layout.labels),
            "loss_mask": torch.from_numpy(layout.loss_mask),
            "position_ids": torch.from_numpy(layout.position_ids),
            "cu_seqlens": torch.from_numpy(layout.cu_seqlens),
            "max_seqlen": torch.tensor(layout.max_seqlen, dtype=torch.int32),
        }

    def segment_lengths(self, idx: int) -> NDArray[np.int64]:
        """What attention computes for sample ``idx``, without laying it out.

        Returns:
            Shape ``(num_segments,)``: positions of each segment, then of the tail if there is one,
            which attention takes for a segment too; together ``sequence_length``.
        """
        lengths = self._segments(idx).lengths
        tail = self.config.sequence_length - int(lengths.sum())
        return np.append(lengths, tail) if tail else lengths

    def _segments(self, idx: int) -> Segments:
        seed = self.config.random_seed
        return self.index.segments(
            pack_at(int(idx), len(self.index), seed),
            self.corpus.num_tokens,
            epoch=int(idx) // len(self.index),
            seed=seed,
        )


def _find_index(
    corpus: Corpus | JoinedCorpus, documents: range, config: PackedDatasetConfig
) -> PackIndex:
    if config.packing_indexes:
        return _find_given(corpus, documents, config)
    settings = PlanSettings(
        strategy=config.packing_strategy,
        sequence_length=config.sequence_length,
        overlong=config.packing_overlong,
        max_documents_per_pack=config.packing_max_documents_per_pack,
        packs_multiple_of=config.packing_packs_multiple_of,
        seed=config.random_seed,
    )
    folder = Path(config.path_to_cache or corpus.folder / "cache") / _CACHE_FOLDER
    identity = [corpus.fingerprint, documents.start, documents.stop, asdict(settings)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = folder / name
    if _is_builder() and not (path / MANIFEST).exists():
        started = time.monotonic()
        try:
            index = build_pack_index(corpus, settings, path, documents=documents)
        except InputError:
            if not (path / MANIFEST).exists():  # else another job made it meanwhile
                raise
        else:
            seconds = time.monotonic() - started
            logger.info(
                f"packed {len(documents):,} documents of {corpus.prefix} into {len(index):,} rows, "
                f"lower bound {index.figures.lower_bound:,} "
                f"({index.figures.utilisation:.2%} used) in {seconds:.2f} s: {path}"
            )
    _wait_until_visible(path / MANIFEST)
    return _check(PackIndex.open(path), corpus, config)


def _find_given(
    corpus: Corpus | JoinedCorpus, documents: range, config: PackedDatasetConfig
) -> PackIndex:
    """Choose the one index of this corpus whose documents all belong to this split."""
    found = []
    for path in config.packing_indexes:
        index = PackIndex.open(path)
        first = index.corpus.first_document
        inside = documents.start <= first and (first + index.corpus.num_documents <= documents.stop)
        if inside and index.corpus.fingerprint == corpus.fingerprint:
            found.append(index)
    given = ", ".join(config.packing_indexes)
    split = f"the documents {documents.start} to {documents.stop - 1} of {corpus.prefix}"
    if not found:
        raise InputError(
            f"none of the pack indexes {given} is made of {split}, which this split holds; make "
            f"one with: megatron-packing pack {corpus.prefix} --sequence-length "
            f"{config.sequence_length} --overlong {config.packing_overlong} "
            f"--documents {documents.start}:{documents.stop} --output DIR"
        )
    if len(found) > 1:
        raise InputError(f"more than one of the pack indexes {given} is made of {split}; give one")
    count = found[0].corpus.num_documents
    if count < len(documents):
        logger.warning(f"{found[0].path} holds {count:,} of the {len(documents):,} in {split}")
    return _check(found[0], corpus, config)


def _check(
    index: PackIndex, corpus: Corpus | JoinedCorpus, config: PackedDatasetConfig
) -> PackIndex:
    index.check_corpus(corpus.prefix, corpus.fingerprint)
    if index.plan.sequence_length != config.sequence_length:
        raise InputError(
            f"the pack index {index.path} has rows of {index.plan.sequence_length} positions, but "
            f"--seq-length is {config.sequence_length}; make one for that length"
        )
    return index


def _is_builder() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _wait_until_visible(path: Path) -> None:
    deadline = time.monotonic() + _VISIBLE_AFTER_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"{path} did not appear within {_VISIBLE_AFTER_SECONDS} s of rank 0 writing it; "
                f"--data-cache-path must be a folder that all ranks share"
            )
        time.sleep(0.2)
