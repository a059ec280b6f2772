# SPDX-License-Identifier: Apache-2.0
"""Sets of lengths that plans are tried on. Each seed makes an instance of every size in a set.

Chat-like sets are lognormal, cut to the row: a to c (6.2, 1.0) with 69,000, 326,000 and 1.2 million
documents at 4096, d (6.3, 1.35) with 1.2 million at 8192. f is hard for every order of lengths:
300,000 at 4096, 40% in (1/2, 1], 30% in (1/3, 1/2] and 30% in (1/4, 1/3] of the row. g is uniform,
300,000 in 1..4096.

crowded has lengths between a quarter and half of a row, wide between a fifth and 0.7 of it.

The others are in the manner of the sets that papers on bin packing use, from own generators:
uniform and triplets (Falkenauer, Journal of Heuristics 2, 1996), scholl1 to scholl3 (Scholl, Klein
and Juergens, Computers and Operations Research 24, 1997), schwerin (Schwerin and Waescher, ITOR 4,
1997), hard28 (Schoenfield, 2002), and nonirup and irup (Delorme, Iori and Martello, European
Journal of Operational Research 255, 2016).

nonirup and irup have a kernel of 15 lengths that fill three rows in fractions but need four: one
length for each edge of the Petersen graph, which six perfect matchings cover twice but no three
cover (Caprara, Dell'Amico, Diaz-Diaz, Iori and Rizzi, Mathematical Programming 150, 2015). Rows
that are cut in three are added, up to the sizes of the paper. These are not the paper's instances,
which may be harder: their generator was not at hand. Here the kernel and the rest cannot share a
full row, by their residues modulo 3, so that the optimum is known without a solver; and rows are a
multiple of 3. In irup one length of the kernel is cut so that three rows hold it, and no row of an
optimal plan has room left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Instance:
    """Lengths, the row that they are packed into, and what is known of plans without a limit."""

    lengths: NDArray[Any]
    row: int
    optimum: int | None = None
    """Packs of an optimal plan."""


Limits: TypeAlias = tuple[int | None, ...]
"""Documents per pack that a set is planned with: None for any number."""

Draw: TypeAlias = Callable[[np.random.Generator, float], list[Instance]]
"""Makes instances; the second argument is the share of the documents of large ones."""


@dataclass(frozen=True, slots=True)
class LengthSet:
    """What a line of the table is about."""

    title: str
    draw: Draw
    most_seeds: int = 1000
    limits: Limits = (None,)


def chat_like(count: int, mean: float, sigma: float, row: int) -> Draw:
    """Lognormal lengths, cut to the row."""
    return lambda random, scale: [
        Instance(
            random.lognormal(mean, sigma, int(count * scale)).astype(np.int32).clip(1, row), row
        )
    ]


def adversarial(random: np.random.Generator, scale: float) -> list[Instance]:
    """Lengths over a quarter of the row."""
    row = 4096
    kind = random.choice(3, int(300_000 * scale), p=[0.4, 0.3, 0.3])
    low = np.array([row // 2, row // 3, row // 4])[kind] + 1
    high = np.array([row, row // 2, row // 3])[kind] + 1
    return [Instance(random.integers(low, high).astype(np.int32), row)]


def scaled_uniform(low: int, high: int, row: int, count: int) -> Draw:
    """Lengths in low..high, as many as the scale says."""
    return lambda random, scale: [
        Instance(random.integers(low, high + 1, max(10, int(count * scale))), row)
    ]


def uniform(low: int, high: int, row: int, *counts: int) -> Draw:
    """Lengths in low..high, an instance for each count."""
    return lambda random, _: [
        Instance(random.integers(low, high + 1, count), row) for count in counts
    ]


def triplets(random: np.random.Generator, _: float) -> list[Instance]:
    """Rows of 1,000 that are cut in three, so that nothing may be left of any."""
    instances = []
    for count in (20, 40, 83, 167):
        longest = random.integers(380, 491, count)
        middle = random.integers(250, (1000 - longest) // 2 + 1)
        lengths = np.concatenate([longest, middle, 1000 - longest - middle])
        instances.append(Instance(lengths, 1000, count))
    return instances


def scholl1(random: np.random.Generator, _: float) -> list[Instance]:
    """Rows of 100 to 150 and lengths of up to 100."""
    return [
        Instance(random.integers(low, 101, count), row)
        for row in (100, 120, 150)
        for low in (1, 20, 30)
        for count in (50, 100, 200, 500)
    ]


def scholl2(random: np.random.Generator, _: float) -> list[Instance]:
    """Lengths around a third to a ninth of a row of 1,000."""
    return [
        Instance(
            random.integers(max(1, int(mean * (1 - spread))), int(mean * (1 + spread)) + 1, n), 1000
        )
        for mean in (1000 / 3, 1000 / 5, 1000 / 7, 1000 / 9)
        for spread in (0.2, 0.5, 0.9)
        for n in (50, 100, 200, 500)
    ]


# The vertices of the Petersen graph are the pairs of five things, its edges join those apart.
PETERSEN = [
    (a, b)
    for (a, first), (b, second) in itertools.combinations(
        enumerate(itertools.combinations(range(5), 2)), 2
    )
    if not {*first} & {*second}
]
IRUP_SIZES = ((62, 834), (129, 3334), (195, 6667), (262, 13_334), (329, 26_667))
"""Rows cut in three beside the kernel, and a third of the row's positions."""


def sums_of_subsets(lengths: NDArray[Any]) -> NDArray[Any]:
    """By the bits of each subset, shape ``(2 ** n,)``."""
    sums = np.zeros(1, np.int64)
    for length in lengths:
        sums = np.concatenate([sums, sums + length])
    return sums


def fit_three_rows(lengths: NDArray[Any], row: int) -> bool:
    """Whether lengths of three rows together fill three rows."""
    full = np.flatnonzero(sums_of_subsets(lengths) == row)
    return bool(((full[:, None] & full[None, :]) == 0).any())


def kernel(random: np.random.Generator, row: int) -> NDArray[Any]:
    """15 lengths between 0.1 and 0.3 of a row that need four rows; in fractions three hold them."""
    while True:
        low = row // 20 + 1
        vertices = random.integers(low, 3 * low - 4, 10)
        vertices[-1] += row - vertices.sum()  # a perfect matching fills a row
        if not low <= vertices[-1] <= 3 * low - 4:
            continue
        lengths = np.array([vertices[a] + vertices[b] for a, b in PETERSEN])
        if not fit_three_rows(lengths, row):
            return lengths


def cut_one(lengths: NDArray[Any], row: int) -> NDArray[Any]:
    """Cuts the last length of a kernel as evenly as can be so that three rows hold all."""
    *others, last = lengths
    sums = sums_of_subsets(np.array(others))
    everything = len(sums) - 1
    best = 0
    for full in np.flatnonzero(sums == row):
        # Of what remains, each part of the last length completes a row.
        beside = np.flatnonzero((np.arange(len(sums)) & full) == 0)
        parts = row - sums[beside]
        parts = parts[(parts > 0) & (parts < last)]
        for part in parts:
            if abs(2 * part - last) < abs(2 * best - last):
                best = int(part)
    if not 0 < best < last or sums[everything] + last != 3 * row:
        raise AssertionError("no part of the length completes a row")
    return np.array([*others, best, last - best])


def rows_cut_in_three(random: np.random.Generator, third: int, count: int) -> NDArray[Any]:
    """Lengths of 0.3 to 0.4 of a row of ``3 * third``, all 1 modulo 3."""
    row = 3 * third
    # In steps of 3, below what all three are at least.
    least = -(-3 * row // 10)
    least += (1 - least) % 3
    steps = (row - 3 * least) // 3
    cuts = np.sort(random.integers(0, steps + 1, (count, 2)), axis=1)
    parts = np.stack([cuts[:, 0], cuts[:, 1] - cuts[:, 0], steps - cuts[:, 1]])
    return (least + 3 * parts).ravel()


def irup(is_irup: bool) -> Draw:
    """Perfect rows in three parts beside a kernel that fits its rows, or does not.

    A full row has a multiple of three of the parts that are 1 modulo 3, as the kernel's lengths and
    the row are 0; three of them leave at most 0.1 of the row, where no length of the kernel fits.
    So a plan without gaps packs the kernel by itself.
    """

    def draw(random: np.random.Generator, _: float) -> list[Instance]:
        instances = []
        for count, third in IRUP_SIZES:
            row = 3 * third
            lengths = 3 * kernel(random, third)
            if is_irup:
                lengths = cut_one(lengths, row)
            lengths = np.concatenate([lengths, rows_cut_in_three(random, third, count)])
            if lengths.sum() != row * (count + 3):
                raise AssertionError("the lengths do not fill their rows")
            instances.append(Instance(lengths, row, count + (3 if is_irup else 4)))
        return instances

    return draw


COUNTS = (1_000, 10_000, 100_000, 1_000_000)
ROWS = (512, 2048, 8192, 32_768, 131_072)


def by_count(name: str, low: float, high: float, row: int, *limits: int) -> list[LengthSet]:
    """Uniform lengths over a share ``low`` and under a share ``high`` of a row, for each count."""
    return [
        LengthSet(
            f"{name}, {count:,}",
            scaled_uniform(int(low * row) + 1, int(np.ceil(high * row)) - 1, row, count),
            4 if count < 100_000 else 1,
            (None, *limits),
        )
        for count in COUNTS
    ]


def chat(name: str, draw: Draw) -> list[LengthSet]:
    """A large set, with and without a limit."""
    return [LengthSet(name, draw, limits=(None, 4))]


def classic(name: str, draw: Draw) -> list[LengthSet]:
    """A set of many small instances."""
    return [LengthSet(name, draw)]


SETS: dict[str, list[LengthSet]] = {
    "a": chat("a", chat_like(69_000, 6.2, 1.0, 4096)),
    "b": chat("b", chat_like(326_000, 6.2, 1.0, 4096)),
    "c": chat("c", chat_like(1_200_000, 6.2, 1.0, 4096)),
    "d": chat("d", chat_like(1_200_000, 6.3, 1.35, 8192)),
    "f": chat("f", adversarial),
    "g": chat("g", scaled_uniform(1, 4096, 4096, 300_000)),
    "uniform": classic("uniform", uniform(20, 100, 150, 120, 250, 500, 1000)),
    "triplets": classic("triplets", triplets),
    "scholl1": classic("scholl1", scholl1),
    "scholl2": classic("scholl2", scholl2),
    "scholl3": classic("scholl3", uniform(20_000, 35_000, 100_000, 200)),
    "schwerin": classic("schwerin", uniform(150, 200, 1000, 100, 120)),
    "hard28": classic("hard28", uniform(1, 800, 1000, 160, 180, 200)),
    "irup": classic("irup", irup(True)),
    "nonirup": classic("nonirup", irup(False)),
}
for _row in ROWS:
    SETS[f"crowded{_row}"] = by_count(f"crowded{_row}", 1 / 4, 1 / 2, _row, 2)
    SETS[f"wide{_row}"] = by_count(f"wide{_row}", 1 / 5, 7 / 10, _row, 2)
"""By the name that chooses them."""
