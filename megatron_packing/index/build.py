# SPDX-License-Identifier: Apache-2.0
"""Makes the pack index of a corpus, or of a range of its documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from megatron_packing.corpus.corpus import Corpus, Documents
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError, SettingError, doubled_braces
from megatron_packing.files.whole import refuse_existing
from megatron_packing.index.manifest import CorpusReference, Figures
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.packable import all_dropped, packable_lengths, refuse_overlong
from megatron_packing.index.trained import find_tokens, find_trained, list_hashes, share_read
from megatron_packing.index.write import group_places, write_pack_index
from megatron_packing.planning.plan import plan_packs
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import STRATEGY_TABLE


def build_pack_index(
    corpus: Documents,
    settings: PlanSettings,
    path: Path,
    *,
    documents: range | None = None,
    progress: Callable[[float], None] | None = None,
    hash_content: bool = False,
    reading: Callable[[float], None] | None = None,
) -> PackIndex:
    """Plan packs for a corpus and write them to the folder ``path``.

    Args:
        corpus: Where the lengths come from. Its loss masks are read whole, its tokens where its
            record does not say which is the largest.
        settings: The plan.
        path: A folder that does not exist.
        documents: The documents to pack; None packs all.
        progress: Called with the share of the planning that is done.
        hash_content: Read all tokens and keep hashes of all data, so that ``verify --deep`` can
            prove that nothing of it was changed.
        reading: Called with the share of the data that is read.

    Raises:
        InputError: A document is too long for the plan, there is nothing to pack or nothing to
            train, a token or a loss mask is none, or ``path`` exists. Nothing is left behind.
    """
    refuse_existing(path)
    documents = range(len(corpus)) if documents is None else documents
    if isinstance(corpus, JoinedCorpus) and corpus.repeats_documents:
        _refuse_a_part(corpus, documents)
    lengths, kept = packable_lengths(
        corpus.num_tokens[documents.start : documents.stop], corpus.prefix
    )
    cut_anyway = settings.overlong != "error" or STRATEGY_TABLE[settings.strategy].cuts_documents
    if not cut_anyway and settings.sequence_length >= 1:  # else the core refuses it
        row = settings.sequence_length
        refuse_overlong(lengths, kept, row, corpus.prefix, documents.start)
    tokens = on_read = None
    if isinstance(corpus, Corpus | JoinedCorpus):
        on_read = share_read(corpus, tokens=hash_content, progress=reading)
        tokens = find_tokens(corpus, read_all=hash_content, on_read=on_read)
    plan = plan_packs(lengths, settings, progress=progress)
    if plan.num_packs == 0:
        raise all_dropped(settings.sequence_length, corpus.prefix)
    document_ids = plan.document_ids
    if kept is not None or documents.start > 0:
        dtype = np.int32 if documents.stop <= np.iinfo(np.int32).max else np.int64
        document_ids = document_ids if kept is None else kept[document_ids]
        document_ids = (document_ids + documents.start).astype(dtype)
    arrays = {"pack_offsets": plan.pack_offsets, "document_ids": document_ids}
    if plan.segment_starts is not None and plan.segment_lengths is not None:
        arrays |= {"segment_starts": plan.segment_starts, "segment_lengths": plan.segment_lengths}
    starts, segment_lengths = plan.segment_starts, plan.segment_lengths
    if starts is None or segment_lengths is None:
        segment_lengths = np.asarray(corpus.num_tokens)[document_ids].astype(np.int64) - 1
        starts = np.zeros_like(segment_lengths)
    arrays |= group_places(segment_lengths, plan.sequence_length, plan.alignment)
    trained = None
    if isinstance(corpus, Corpus | JoinedCorpus):
        trained = find_trained(
            corpus, plan.pack_offsets, document_ids, starts, segment_lengths, on_read
        )
        if trained.num_labels == 0:
            raise SettingError(
                f"no token in the packs of {doubled_braces(corpus.prefix)} is trained: its loss "
                f"masks are 0 wherever packs have labels; tokenize it with another --loss-on, or "
                f"keep more of its documents with a longer {{sequence_length}} or "
                f"{{overlong}} split"
            )
    return write_pack_index(
        path,
        plan=settings,
        corpus=CorpusReference(
            prefix=str(corpus.prefix),
            fingerprint=corpus.fingerprint,
            first_document=documents.start,
            num_documents=len(documents),
            tokenizer_sha256=tokens.tokenizer_sha256 if tokens else None,
            largest_token=tokens.largest if tokens else None,
            content_sha256=(
                list_hashes(tokens.sha256, trained.mask_sha256)
                if tokens and tokens.sha256 and trained
                else None
            ),
        ),
        figures=Figures(
            num_packs=plan.num_packs,
            lower_bound=plan.lower_bound,
            num_positions=plan.num_positions,
            utilisation=plan.utilisation,
            max_documents_per_pack=int(np.diff(plan.pack_offsets).max()),
            num_documents_split=plan.num_documents_split,
            num_documents_dropped=plan.num_documents_dropped,
            num_documents_truncated=plan.num_documents_truncated,
            num_documents_empty=0 if kept is None else len(documents) - len(kept),
            num_positions_lost=plan.num_positions_lost,
            num_documents_untrained=trained.num_documents_untrained if trained else None,
            num_packs_untrained=trained.num_packs_untrained if trained else None,
        ),
        arrays=arrays,
    )


def _refuse_a_part(corpus: JoinedCorpus, documents: range) -> None:
    """Refuse to split a corpus into training and validation that holds documents twice."""
    if len(documents) < len(corpus):
        raise InputError(
            f"the documents {documents.start} to {documents.stop - 1} of {corpus.prefix} are asked "
            f"for, but it holds documents more than once (PREFIX:EPOCHS), so others of its parts "
            f"would hold the same documents; keep documents for validation in a corpus of their "
            f"own, and pack or train on all of this one (--split 1,0,0)"
        )
