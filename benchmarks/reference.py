# SPDX-License-Identifier: Apache-2.0
"""The fewest packs that there can be, by HiGHS: a reference that shares no code with the planner.

The model has an integer for each pack that lengths can make (Gilmore and Gomory, Operations
Research 9, 1961). Packs become columns as the linear program asks for them: the dearest one under
its prices that each length leads, until no pack is worth more than one. Then whole packs are taken,
and the program is solved for what is left, which brings the columns that whole numbers need; last,
HiGHS looks for the best whole numbers among all columns. Where that needs as few packs as the first
linear program proves, nothing is better; where it does not, or the time is over, there is no
reference.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
"""Of a sum of prices, in packs."""
ROUNDED_UP = (1, 0.9, 0.75, 0.6)
"""The fractions from which on packs are rounded up, one in each search for whole numbers."""
VARIATIONS = 20
"""Of prices, for more columns."""


class TimeOver(Exception):  # noqa: N818 (no error)
    """HiGHS did not end within its seconds."""


@dataclass
class Clock:
    """Processor time that is left."""

    seconds: float
    started: float = field(default_factory=time.process_time)

    def left(self) -> float:
        """Raise ``TimeOver`` where nothing is."""
        left = self.seconds - (time.process_time() - self.started)
        if left <= 0:
            raise TimeOver
        return left


def best_fills(
    sizes: NDArray[Any], prices: NDArray[Any], row: int, places: int, clock: Clock
) -> list[NDArray[Any]]:
    """What the dearest segments for each room cost together, for each number of them.

    Args:
        sizes: Lengths of positive price, ascending, shape ``(n,)``.
        prices: Of each of them, shape ``(n,)``.
        row: The largest room.
        places: The most segments.
        clock: Stops the search.

    Returns:
        Entry ``p`` has at most ``p`` segments: by room, shape ``(row + 1,)``. There is one entry
        where more segments never fit.
    """
    if places >= row // sizes[0]:
        fill = np.zeros(row + 1)
        for size, price in zip(sizes, prices, strict=True):
            for begin in range(size, row + 1, size):  # any number of the size
                room = slice(begin, min(begin + size, row + 1))
                before = fill[begin - size : room.stop - size]
                np.maximum(fill[room], before + price, out=fill[room])
        clock.left()
        return [fill]
    layers = [np.zeros(row + 1)]
    for _ in range(places):
        clock.left()
        before, now = layers[-1], layers[-1].copy()
        for size, price in zip(sizes, prices, strict=True):
            np.maximum(now[size:], before[: row + 1 - size] + price, out=now[size:])
        layers.append(now)
    return layers


def dearest_packs(
    sizes: NDArray[Any],
    prices: NDArray[Any],
    row: int,
    places: int,
    clock: Clock,
    least: float = 1 + ROUNDING,
) -> tuple[float, list[tuple[int, ...]]]:
    """The dearest pack that each length leads, of those that cost more than ``least``.

    Returns:
        What the dearest of all costs, and packs as indexes of ``sizes``, ascending.
    """
    priced = np.flatnonzero(prices > 0)
    lengths, costs = sizes[priced], prices[priced]
    fills = best_fills(lengths, costs, row, places, clock)

    def fill(segments: int) -> NDArray[Any]:
        return fills[min(segments, len(fills) - 1)]

    values = costs + fill(places - 1)[row - lengths]
    packs = []
    for leader in np.flatnonzero(values > least):
        pack, room, left = [leader], row - lengths[leader], places - 1
        while left > 0 and fill(left)[room] > 0:
            count = np.searchsorted(lengths, room, side="right")
            following = costs[:count] + fill(left - 1)[room - lengths[:count]]
            pack.append(following.argmax())
            room -= lengths[pack[-1]]
            left -= 1
        packs.append(tuple(sorted(int(priced[segment]) for segment in pack)))
    return float(values.max()), packs


class Program:
    """The fewest packs that cover a demand, in fractions or whole."""

    def __init__(self, demand: NDArray[Any]):
        self.demand = demand
        self.columns: dict[tuple[int, ...], None] = {}
        self.solver = self._solver()

    def _solver(self) -> highspy.Highs:
        solver = highspy.Highs()
        solver.silent()
        for name, value in (("threads", 1), ("parallel", "off")):
            solver.setOptionValue(name, value)
        nothing = np.empty(0)
        for count in self.demand:
            solver.addRow(float(count), highspy.kHighsInf, 0, nothing.astype(np.int32), nothing)
        return solver

    def _add_to(self, solver: highspy.Highs, pack: tuple[int, ...]) -> None:
        rows, counts = np.unique(pack, return_counts=True)
        solver.addCol(
            1.0, 0.0, highspy.kHighsInf, len(rows), rows.astype(np.int32), counts.astype(float)
        )

    def cover(self, demand: NDArray[Any]) -> None:
        """Cover another demand from now on, in fractions."""
        for row, count in enumerate(demand):
            self.solver.changeRowBounds(row, float(count), highspy.kHighsInf)

    def add(self, packs: list[tuple[int, ...]]) -> bool:
        """Add columns; false where there is no new one."""
        before = len(self.columns)
        for pack in packs:
            if pack not in self.columns:
                self.columns[pack] = None
                self._add_to(self.solver, pack)
        return len(self.columns) > before

    def solve(self, clock: Clock) -> tuple[NDArray[Any], NDArray[Any]]:
        """Solve in fractions: how often each column is used, and what one more of a row costs."""
        self.solver.setOptionValue("time_limit", self.solver.getRunTime() + clock.left())
        self.solver.run()
        if self.solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise TimeOver
        solution = self.solver.getSolution()
        return np.array(solution.col_value), np.maximum(np.array(solution.row_dual), 0)

    def whole(self, clock: Clock) -> int:
        """The fewest packs found in whole numbers of the columns."""
        solver = self._solver()
        for number, pack in enumerate(self.columns):
            self._add_to(solver, pack)
            solver.changeColIntegrality(number, highspy.HighsVarType.kInteger)
        solver.setOptionValue("mip_rel_gap", 0.0)
        solver.setOptionValue("mip_abs_gap", 1 - ROUNDING)
        solver.setOptionValue("time_limit", clock.left())
        solver.run()
        value = solver.getInfo().objective_function_value
        if not math.isfinite(value):
            raise TimeOver
        return round(value)


def generate(
    program: Program, demand: NDArray[Any], sizes: NDArray[Any], row: int, places: int, clock: Clock
) -> tuple[int, NDArray[Any]]:
    """Add columns until the program's value is proven: a lower bound, and each column's use."""
    program.cover(demand)
    bound = 0
    while True:
        used, prices = program.solve(clock)
        dearest, packs = dearest_packs(sizes, prices, row, places, clock)
        value = float(prices @ demand)
        bound = max(bound, math.ceil(value / max(1.0, dearest) - ROUNDING))
        if bound >= math.ceil(value - ROUNDING) or not program.add(packs):
            return bound, used


def take_whole(
    program: Program, used: NDArray[Any], demand: NDArray[Any], least: float
) -> tuple[int, NDArray[Any]]:
    """Take what is used whole, or nearly, or once: the packs, and the demand that is left.

    least: The fraction that is rounded up.
    """
    counts = np.floor(used + 1 - least + ROUNDING).astype(int)
    if not counts.any():
        counts[used.argmax()] = 1
    left = demand.copy()
    # Columns that came later are not used.
    for pack, count in zip(program.columns, counts, strict=False):
        if count > 0:
            np.subtract.at(left, list(pack), count)
    return int(counts.sum()), np.maximum(left, 0)


def fewest_packs(
    lengths: NDArray[Any], row: int, most: int | None, seconds: float
) -> tuple[int, int | None]:
    """What HiGHS proves of the packs of an optimal plan.

    Args:
        lengths: Of documents; what is longer than a row is split.
        row: Positions of a row.
        most: Documents in a pack at most.
        seconds: Processor time.

    Returns:
        A lower bound (0 where the time did not suffice for one), and the packs of an optimal plan;
        None where these were not found in time.
    """
    clock = Clock(seconds)
    full_rows = int((lengths // row).sum())
    sizes, demand = np.unique(lengths % row, return_counts=True)
    sizes, demand = sizes[sizes > 0].astype(np.int64), demand[sizes > 0]
    if len(sizes) == 0:
        return full_rows, full_rows
    places = len(lengths) if most is None else most
    program = Program(demand)
    alike = np.minimum(row // sizes, places)
    program.add([(place,) * int(count) for place, count in enumerate(alike)])
    bound = 0
    try:
        bound, used = generate(program, demand, sizes, row, places, clock)
        found = len(lengths)
        random = np.random.default_rng(0)
        for least in ROUNDED_UP:
            packs, left = take_whole(program, used, demand, 1)
            while left.any() and packs < found:
                _, residual = generate(program, left, sizes, row, places, clock)
                more, left = take_whole(program, residual, left, least)
                packs += more
            found = min(found, packs)
            if found <= bound:
                break
        if found > bound:
            program.cover(demand)
            # As good in fractions, but others: whole numbers need a choice.
            _, prices = program.solve(clock)
            for _ in range(VARIATIONS):
                varied = prices * (1 - 0.002 * random.random(len(prices)))
                program.add(dearest_packs(sizes, varied, row, places, clock, 0.99)[1])
            found = min(found, program.whole(clock))
    except TimeOver:
        return full_rows + bound if bound else 0, None
    return full_rows + bound, full_rows + found if found <= bound else None
