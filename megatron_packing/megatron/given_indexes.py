# SPDX-License-Identifier: Apache-2.0
"""The pack indexes that ``--packing-indexes`` names, each opened once."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial

from megatron.core.datasets.utils import Split

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.files.at_once import try_at_once
from megatron_packing.first_rank import say
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.stored_indexes import local_index
from megatron_packing.ranks import open_on_every_rank

logger = logging.getLogger(__name__)


class GivenIndexes:
    """Finds the index of a corpus by its fingerprint."""

    def __init__(self, config: PackedDatasetConfig) -> None:
        """Open the indexes.

        Raises:
            InputError: One cannot be opened.
        """
        self._config = config
        self._by_fingerprint: dict[str, list[PackIndex]] = defaultdict(list)
        paths = [
            local_index(place, config.object_storage_cache_path) for place in config.packing_indexes
        ]
        say(f"opening {counted(len(paths), 'pack index', 'pack indexes')}")
        openers = [partial(PackIndex.open, path, trust="manifest") for path in paths]
        for path, opener, found in zip(paths, openers, try_at_once(openers), strict=True):
            index = open_on_every_rank(opener, path) if found is None else found
            self._by_fingerprint[index.corpus.fingerprint].append(index)

    def find(self, corpus: Corpus | JoinedCorpus, documents: range, split: Split) -> PackIndex:
        """Choose the one index of this corpus whose documents all belong to this split.

        Raises:
            InputError: There is none, or more than one.
        """
        found = []
        for index in self._by_fingerprint[corpus.fingerprint]:
            first = index.corpus.first_document
            stop = first + index.corpus.num_documents
            if documents.start <= first and stop <= documents.stop:
                found.append(index)
        given = ", ".join(self._config.packing_indexes)
        wanted = f"the documents {documents.start} to {documents.stop - 1} of {corpus.prefix}"
        if not found:
            settings = self._config.plan_settings(training=split is Split.train)
            raise InputError(
                f"none of the pack indexes {given} holds {wanted}, which this split needs; "
                f"make one with: {settings.command(str(corpus.prefix), documents)}"
            )
        if len(found) > 1:
            raise InputError(f"more than one of the pack indexes {given} holds {wanted}; give one")
        count, plan = found[0].corpus.num_documents, found[0].plan
        if count < len(documents):
            logger.warning(f"{found[0].path} holds {count:,} of the {len(documents):,} in {wanted}")
        logger.info(
            f"{wanted} are in {len(found[0]):,} rows of {found[0].path}; its own plan applies: "
            f"{plan.strategy}, overlong {plan.overlong}, alignment {plan.alignment}"
        )
        return found[0]
