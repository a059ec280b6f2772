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
from megatron_packing.index.plan import OVERLONG, STRATEGIES
from megatron_packing.thd.alignment import segment_alignment
from megatron_packing.thd.layout import (
    ATTENTION,
    POSITION_IDS,
    Placement,
    lay_out,
    place,
    positions_of,
)
from megatron_packing.thd.loss_weights import NORMALISERS, weigh

logger = logging.getLogger(__name__)

_CACHE_FOLDER = "pack_indexes"
# What rank 0 wrote may show on a network file system after this long only.
_VISIBLE_AFTER_SECONDS = 120


@dataclass
class PackedDatasetConfig(GPTDatasetConfig):
    """GPTDatasetConfig and how its corpora are packed.

    Of Megatron's own fields ``context_parallel_size`` matters: segments must be cut for it.
    """

    packing_strategy: str = "optimal"
    """One of ``megatron_packing.STRATEGIES``."""
    packing_overlong: str = "error"
    """What happens to documents longer than a row: error, drop, truncate or split."""
    packing_max_documents_per_pack: int | None = None
    """At most so many documents in a row."""
    packing_packs_multiple_of: int = 1
    """Training packs are divided until their number is a multiple of this."""
    packing_eval_packs_multiple_of: int = 1
    """The same for validation and test packs: of the global batch of an evaluation, so that whole
    batches hold every document once."""
    packing_alignment: int | None = None
    """Segments take a multiple of this in their row. None: what context parallelism asks for."""
    packing_indexes: tuple[str, ...] = ()
    """Pack indexes made beforehand. Where one holds the documents of a split it is used, plan and
    all; where none does, that is an error. Empty: indexes are made in ``path_to_cache``."""
    packing_attention: str = "document"
    """``document``: documents see themselves alone; ``pack``: and those before them in the row."""
    packing_position_ids: str | None = None
    """``restart``: from 0 in each segment; ``continue``: through the row. None: as attention."""
    packing_normaliser: str = "token"
    """What weighs the same in the loss: each ``token``, ``sequence`` or ``turn``."""
    packing_with_tokens: bool = True
    """False on pipeline stages that need to know where documents are, but not what they say."""
    packing_with_padding_mask: bool = False
    """For mixtures of experts, whose routers must not count padding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packing_position_ids is None:
            self.packing_position_ids = positions_of(self.packing_attention)
        for name, choices in (
            ("packing_strategy", STRATEGIES),
            ("packing_overlong", OVERLONG),
            ("packing_attention", ATTENTION),
            ("packing_position_ids", POSITION_IDS),
            ("packing_normaliser", NORMALISERS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}"
                )
        if self.create_attention_mask:
            raise ValueError(
                "create_attention_mask is on, but cu_seqlens take the mask's place; "
                "give --no-create-attention-mask-in-dataloader"
            )

    @property
    def smallest_alignment(self) -> int:
        """What every pack index must be aligned to."""
        return segment_alignment(self.context_parallel_size or 1)


class PackedDataset(MegatronDataset):
    """Rows of packed documents. Sample i is a function of the pack index, the seed and i alone.

    Each sample is a dict of tensors:

        tokens, labels, position_ids   int64, (sequence_length,)
        loss_mask                      float32, (sequence_length,): the weight of each label
        denominator                    int64, (): by which the row adds to what the loss of the
                                       batch is divided by; see ``thd.loss_weights``
        cu_seqlens                     int32, the same width for every sample
        cu_seqlens_padded              the same again, only under context parallelism, where
                                       Megatron's own batch path asks for it
        real_lengths                   int32, one less: without padding
        max_seqlen                     int32, ()
        padding_mask                   bool, (sequence_length,), if asked for

    The first five are left out with ``packing_with_tokens=False``.

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
        self.index = _find_index(dataset, documents, index_split, config)
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
            "packing_eval_packs_multiple_of",
            "packing_alignment",
            "context_parallel_size",
            "packing_indexes",
        ]

    def __len__(self) -> int:
        """Samples that were asked for, over as many epochs as that takes; else one epoch.

        Megatron asks for none where it never evaluates, but takes an empty dataset for an error.
        """
        return self.num_samples or len(self.index)

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Lay sample ``idx`` out."""
        segments = self._segments(idx)
        placement = self._place(segments)
        arrays: dict[str, NDArray[np.generic]] = {
            "cu_seqlens": placement.cu_seqlens,
            "real_lengths": placement.real_lengths,
            "max_seqlen": np.array(placement.max_seqlen, np.int32),
        }
        if (self.config.context_parallel_size or 1) > 1:
            arrays["cu_seqlens_padded"] = placement.cu_seqlens
        if self.config.packing_with_padding_mask:
            arrays["padding_mask"] = placement.padding_mask()
        if self.config.packing_with_tokens:
            layout = lay_out(self.corpus, segments, placement, self._tail_token)
            plan = self.index.plan
            weights, denominator = weigh(
                layout.loss_mask,
                self.corpus,
                segments,
                placement,
                self.config.packing_normaliser,
                parts_are_elsewhere=plan.overlong == "split" or plan.strategy == "random",
            )
            arrays |= {
                "tokens": layout.tokens,
                "labels": layout.labels,
                "position_ids": placement.position_ids(self.config.packing_position_ids),
                "loss_mask": weights,
                "denominator": np.array(denominator, np.int64),
            }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def segment_lengths(self, idx: int) -> NDArray[np.int64]:
        """What attention computes for sample ``idx``, without reading its tokens.

        Returns:
            Shape ``(num_stretches,)``: positions between neighbours of ``cu_seqlens``, pads and
            tail among them; together ``sequence_length``.
        """
        lengths = np.diff(self._place(self._segments(idx)).cu_seqlens).astype(np.int64)
        return lengths[lengths > 0]

    def _place(self, segments: Segments) -> Placement:
        return place(
            segments.lengths,
            self.config.sequence_length,
            self._cu_seqlens_width,
            alignment=self.index.plan.alignment,
            attention=self.config.packing_attention,
        )

    def _segments(self, idx: int) -> Segments:
        seed = self.config.random_seed
        return self.index.segments(
            pack_at(int(idx), len(self.index), seed),
            self.corpus.num_tokens,
            epoch=int(idx) // len(self.index),
            seed=seed,
        )


def _find_index(
    corpus: Corpus | JoinedCorpus, documents: range, split: Split, config: PackedDatasetConfig
) -> PackIndex:
    if config.packing_indexes:
        return _find_given(corpus, documents, config)
    settings = PlanSettings(
        strategy=config.packing_strategy,
        sequence_length=config.sequence_length,
        overlong=config.packing_overlong,
        max_documents_per_pack=config.packing_max_documents_per_pack,
        packs_multiple_of=(
            config.packing_packs_multiple_of
            if split is Split.train
            else config.packing_eval_packs_multiple_of
        ),
        alignment=config.packing_alignment or config.smallest_alignment,
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
            f"none of the pack indexes {given} is made of {split}, which this split holds; "
            f"{_pack_command(corpus, config)} --documents {documents.start}:{documents.stop} "
            f"--output DIR"
        )
    if len(found) > 1:
        raise InputError(f"more than one of the pack indexes {given} is made of {split}; give one")
    count = found[0].corpus.num_documents
    if count < len(documents):
        logger.warning(f"{found[0].path} holds {count:,} of the {len(documents):,} in {split}")
    return _check(found[0], corpus, config)


def _pack_command(corpus: Corpus | JoinedCorpus, config: PackedDatasetConfig) -> str:
    alignment = config.packing_alignment or config.smallest_alignment
    return (
        f"make one with: megatron-packing pack {corpus.prefix} "
        f"--sequence-length {config.sequence_length} --overlong {config.packing_overlong}"
        + (f" --alignment {alignment}" if alignment > 1 else "")
    )


def _check(
    index: PackIndex, corpus: Corpus | JoinedCorpus, config: PackedDatasetConfig
) -> PackIndex:
    index.check_corpus(corpus.prefix, corpus.fingerprint)
    if index.plan.sequence_length != config.sequence_length:
        raise InputError(
            f"the pack index {index.path} has rows of {index.plan.sequence_length} positions, but "
            f"--seq-length is {config.sequence_length}; make one for that length"
        )
    if index.plan.alignment % config.smallest_alignment:
        raise InputError(
            f"the pack index {index.path} has segments aligned to {index.plan.alignment}, but "
            f"--context-parallel-size {config.context_parallel_size} cuts them into "
            f"{config.smallest_alignment} equal chunks; {_pack_command(corpus, config)} "
            f"--documents {index.corpus.first_document}:"
            f"{index.corpus.first_document + index.corpus.num_documents} --output DIR"
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
