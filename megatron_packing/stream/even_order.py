# SPDX-License-Identifier: Apache-2.0
"""Computes an order of packs in which ranks that run packs at the same moment run like ones.

Pipeline, expert and fully sharded parallelism meet in every micro-batch, where all ranks wait for
the one with the most work. This order deals *runs*, as many packs of like work as there are ranks,
to global batches. Packs are sorted by work, cut into runs, and the runs into as many strata as a
rank has micro-batches. Each global batch gets a random run of the heaviest stratum, and of each
other stratum a random one of those that make up for it. So all ranks have like packs in each
micro-batch, and batches have like work, without sorting batches by length. Each epoch cuts other
runs, as neighbors in the sorted order change places first.

As in ``order``, nothing is stored: the pack of a sample depends on the index, the settings, the
seed and the sample's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.corpus.documents import Documents
from megatron_packing.errors import InputError
from megatron_packing.files.kept_array import read_kept, write_kept
from megatron_packing.flops.model import WorkModel
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.rows import rows_of_index
from megatron_packing.stream.balance import light_at_both_ends
from megatron_packing.stream.recent import keep_recent

FEWEST_MICRO_BATCHES = 2
"""Micro-batches of a rank, at least: with one, batches would be sorted by length."""

_WORK = np.dtype("<f8")
_LOOSE, _NEIGHBORS, _FIRST_STRATUM = 0, 1, 2  # uses of an epoch's key
# Before runs are cut, the packs of neighboring ones change places: of this share of all runs, and
# of this many, at most, so that packs of a run stay alike.
_SHARE_MIXED = 1 / 128
_MOST_MIXED = 4
_SHARES = 8  # of the runs of a stratum, by work
_EPOCHS_KEPT = 2
_BATCHES_KEPT = 4  # dataloader workers prefetch, so consecutive batches interleave


@dataclass(frozen=True, kw_only=True, slots=True)
class EvenSettings:
    """What an even order is made for. A run that resumes keeps the settings it began with."""

    ranks: int
    """Packs that run at the same moment: data-parallel ranks."""
    batch: int
    """Packs of a global batch; a multiple of ``ranks``, at least twice as many."""
    per_token: int
    """``WorkModel.per_token``."""
    per_squared_length: int
    """``WorkModel.per_squared_length``."""

    def __post_init__(self) -> None:
        fewest = FEWEST_MICRO_BATCHES * self.ranks
        if self.ranks < 1 or self.batch % self.ranks or self.batch < fewest:
            raise ValueError(
                f"batch is {self.batch} and ranks is {self.ranks}; the batch must be a multiple of "
                f"the ranks, of at least {FEWEST_MICRO_BATCHES} packs for each"
            )

    @classmethod
    def of(cls, work: WorkModel, *, ranks: int, batch: int) -> EvenSettings:
        """Return the settings for a work model, ranks and a global batch."""
        return cls(
            ranks=ranks,
            batch=batch,
            per_token=work.per_token,
            per_squared_length=work.per_squared_length,
        )

    @property
    def work_model(self) -> WorkModel:
        """The work that is made even."""
        return WorkModel(self.per_token, self.per_squared_length)


def work_of_packs(
    index: PackIndex, num_tokens: NDArray[np.integer], model: WorkModel
) -> NDArray[np.float64]:
    """Return the work of each pack; see ``rows_of_index``.

    Args:
        index: The pack index.
        num_tokens: Tokens of each document of the corpus.
        model: The work model.

    Returns:
        Shape ``(len(index),)``.
    """
    rows = rows_of_index(index, num_tokens)
    return model.total(rows.positions.astype(np.float64), rows.squares.astype(np.float64))


def keep_work(
    path: Path, index: PackIndex, num_tokens: NDArray[np.integer], model: WorkModel
) -> InputError | None:
    """Write the work of each pack to a file, if it is missing, or else check the file.

    Args:
        path: The file, which ``EvenOrder.of_index`` reads.
        index: As the next two, see ``work_of_packs``.
        num_tokens: See above.
        model: See above.

    Returns:
        Why the file cannot be written; None if it is there.

    Raises:
        InputError: It is damaged.
    """
    if read_kept(path, _WORK, len(index), checks=True) is None:
        try:
            write_kept(path, _WORK, [work_of_packs(index, num_tokens, model)])
        except InputError as error:
            return error
    return None


class EvenOrder:
    """The packs of an endless stream of samples."""

    def __init__(self, work: NDArray[np.float64], settings: EvenSettings, seed: int) -> None:
        """Sort the packs of an index by their work.

        Args:
            work: Shape ``(num_packs,)``: the result of ``work_of_packs``.
            settings: What the order is made for.
            seed: Decides which runs meet in a batch.
        """
        self._work = work
        self._heaviest_first = np.argsort(-work, kind="stable")
        self._settings = settings
        self._seed = seed
        self._epochs: dict[int, _Epoch] = {}  # recently used
        self._batches: dict[tuple[int, int], NDArray[np.int64]] = {}  # recently used

    @classmethod
    def of_index(
        cls,
        index: PackIndex,
        corpus: Documents,
        settings: EvenSettings,
        seed: int,
        kept: Path | None = None,
    ) -> EvenOrder:
        """Return the order of the packs of an index.

        Args:
            index: The pack index.
            corpus: What it was made from.
            settings: What the order is made for.
            seed: Decides which runs meet in a batch.
            kept: A file of ``keep_work``. With it, no lengths of documents are read.

        Raises:
            InputError: The file is damaged.
        """
        work = None if kept is None else read_kept(kept, _WORK, len(index))
        if work is None:
            work = work_of_packs(index, corpus.num_tokens, settings.work_model)
        return cls(work, settings, seed)

    def pack_at(self, sample: int) -> int:
        """Return the pack of a sample. Every ``num_packs`` samples hold each pack once.

        Global batches are counted from sample 0. An epoch that begins or ends within a batch gives
        random packs to it.
        """
        num_packs, size = len(self._work), self._settings.batch
        number, place = divmod(sample, num_packs)
        head = min(-(number * num_packs) % size, num_packs)
        num_batches = (num_packs - head) // size
        batch, offset = divmod(place - head, size)
        if place < head or batch >= num_batches:
            loose = place if place < head else place - num_batches * size
            key = _core.derive_key(_core.derive_key(self._seed, number), _LOOSE)
            return int(self._heaviest_first[_core.permute(loose, num_packs, key)])
        if (number, batch) not in self._batches:
            if number not in self._epochs:
                epoch = _Epoch(
                    self._work[self._heaviest_first],
                    self._settings,
                    num_batches,
                    _core.derive_key(self._seed, number),
                )
                keep_recent(self._epochs, number, epoch, _EPOCHS_KEPT)
            packs = self._heaviest_first[self._epochs[number].batch(batch)]
            keep_recent(self._batches, (number, batch), packs, _BATCHES_KEPT)
        return int(self._batches[number, batch][offset])


class _Epoch:
    """The whole global batches of one epoch. Packs are known by their rank, the heaviest first."""

    def __init__(
        self, work: NDArray[np.float64], settings: EvenSettings, num_batches: int, key: int
    ) -> None:
        """Choose the runs of each batch.

        Args:
            work: Of each pack, in falling order.
            settings: What the order is made for.
            num_batches: Whole batches of the epoch.
            key: Decides what is random.
        """
        self._work = work
        self._ranks = settings.ranks
        self._size = num_batches * settings.batch
        self._key = key
        loose_key = _core.derive_key(key, _LOOSE)
        num_loose = len(work) - self._size
        loose = np.sort([_core.permute(i, len(work), loose_key) for i in range(num_loose)])
        # The i-th of the packs that are not loose is the i-th of all, and one more for each loose
        # one that is heavier.
        self._heavier = loose - np.arange(num_loose)
        self._runs = self._choose_runs(num_batches, settings.batch // settings.ranks)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the packs of one global batch, in the order of its samples."""
        loads = np.zeros(self._ranks)
        runs = []
        for chosen in self._runs[number].tolist():
            packs = self._all_ranks_of(self._mix(chosen * self._ranks))
            run = np.empty(self._ranks, np.int64)
            run[np.argsort(loads, kind="stable")] = packs  # the heaviest to who has the least work
            loads += self._work[run]
            runs.append(run)
        # Two neighbors are alike, so that twice as many ranks have like packs too.
        return np.concatenate([runs[i] for i in light_at_both_ends(len(runs), together=2)])

    def _choose_runs(self, num_batches: int, num_strata: int) -> NDArray[np.int64]:
        """Return the runs of each batch, 0 the heaviest of all: ``(num_batches, num_strata)``.

        A batch gets a random run of the heaviest stratum. The less work it has so far, the heavier
        is its run of the next stratum: a random one of the right share of the stratum.
        """
        middles = np.arange(num_batches * num_strata) * self._ranks + self._ranks // 2
        work = self._work[self._all_ranks_of(middles)]
        share = max(1, num_batches // _SHARES)
        total = np.zeros(num_batches)
        runs = np.empty((num_batches, num_strata), np.int64)
        for stratum in range(num_strata):
            key = _core.derive_key(self._key, _FIRST_STRATUM + stratum)
            if stratum == 0:
                chosen = [_core.permute(i, num_batches, key) for i in range(num_batches)]
                runs[:, 0] = chosen
            else:
                chosen = [
                    begin
                    + _core.permute(
                        i - begin, min(share, num_batches - begin), _core.derive_key(key, begin)
                    )
                    for i in range(num_batches)
                    for begin in (i // share * share,)
                ]
                runs[np.argsort(total, kind="stable"), stratum] = chosen
            runs[:, stratum] += stratum * num_batches
            total += work[runs[:, stratum]]
        return runs

    def _mix(self, first: int) -> NDArray[np.int64]:
        """Return the run that begins at the ``first`` of the packs that are not loose."""
        span = min(_MOST_MIXED, max(1, int(self._size / self._ranks * _SHARE_MIXED))) * self._ranks
        begin = first // span * span
        key = _core.derive_key(_core.derive_key(self._key, _NEIGHBORS), begin)
        mixed = [
            _core.permute(place - begin, min(span, self._size - begin), key)
            for place in range(first, first + self._ranks)
        ]
        return begin + np.sort(mixed)

    def _all_ranks_of(self, left: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ranks among all packs, from those among packs that are not loose."""
        return left + np.searchsorted(self._heavier, left, side="right")
