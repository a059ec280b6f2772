# SPDX-License-Identifier: Apache-2.0
"""Decides from what the packing check saw whether documents are apart, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_packing.isolation.comparison import (
    Comparison,
    describe_given,
    first_moved,
    first_not_finite,
    how_far,
    last_given,
    name_documents,
)
from megatron_packing.isolation.result import Outcome
from megatron_packing.isolation.tolerances import Tolerances
from megatron_packing.megatron.isolation_recorder import Sign
from megatron_packing.megatron.isolation_run import Findings


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong; as a text a sentence without its end."""

    what: str
    """With the place."""
    cause: str = ""
    place: str = ""
    """Where it shows first."""
    outcome: Outcome = "leaks"

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}" if self.cause else self.what


def find_fault(
    findings: Findings, tolerances: Tolerances, *, recomputes: bool, context_parallel: bool
) -> Fault | None:
    """Return what is wrong; None if nothing is.

    Args:
        findings: What the check saw.
        tolerances: What is no fault.
        recomputes: Whether layers are computed again in the backward pass.
        context_parallel: Whether ranks share rows.
    """
    describer = _Describer(findings, recomputes=recomputes, context_parallel=context_parallel)
    faults = (
        _finite_fault(findings, describer),
        _replaced_fault(findings, tolerances, describer),
        _gradient_fault(findings, describer),
        _padding_fault(findings, tolerances, describer),
        _alone_fault(findings, tolerances, describer),
        _angles_fault(findings, describer),
        _balancing_fault(findings, describer),
        _loss_fault(findings),
    )
    return next((fault for fault in faults if fault), None)


def _finite_fault(findings: Findings, describer: _Describer) -> Fault | None:
    for one in findings.comparisons.values():
        slot = first_not_finite(one)
        if slot is not None:
            place = describer.place(slot, one)
            what = f"a row gives numbers that are not finite, first in {place}"
            return Fault(what, place=place, outcome="refused")
    return None


def _replaced_fault(
    findings: Findings, tolerances: Tolerances, describer: _Describer
) -> Fault | None:
    one = findings.comparisons["replaced"]
    if not (found := first_moved(one, tolerances.replaced, tolerances.replaced_loss)):
        return None
    slot, segments = found
    replaced = name_documents(findings.layout.alternate[0])
    place = describer.place(slot, one)
    what = (
        f"{name_documents(segments)} of a row changed when {replaced} got other tokens "
        f"({how_far(one, slot, tolerances.replaced, tolerances.replaced_loss)}), first in {place}"
    )
    return Fault(what, describer.cause(slot), place)


def _gradient_fault(findings: Findings, describer: _Describer) -> Fault | None:
    for name, one in findings.comparisons.items():
        if not name.startswith("gradient"):
            continue
        sources = name_documents(findings.layout.alternate[int(name.split()[1])])
        if not (given := last_given(one)):
            continue
        last, segments = given
        slot = last + 1  # what takes the output that got it
        place = describer.place(slot, one, at=last)
        cause = describer.cause(slot, only_backward=True)
        return Fault(describe_given(one, sources, segments, place), cause, place)
    return None


def _padding_fault(
    findings: Findings, tolerances: Tolerances, describer: _Describer
) -> Fault | None:
    one = findings.comparisons["padding"]
    if not (found := first_moved(one, tolerances.replaced, tolerances.replaced_loss)):
        return None
    slot, segments = found
    place = describer.place(slot, one)
    what = (
        f"{name_documents(segments)} changed when the padding of its row got other tokens, first "
        f"in {place}"
    )
    return Fault(what, describer.cause(slot), place)


def _alone_fault(findings: Findings, tolerances: Tolerances, describer: _Describer) -> Fault | None:
    for name, one in findings.comparisons.items():
        if not name.startswith("alone"):
            continue
        if found := first_moved(one, tolerances.alone, tolerances.alone_loss):
            slot, segments = found
            place = describer.place(slot, one)
            what = (
                f"{name_documents(segments)} of a row is not computed as alone in a row "
                f"({how_far(one, slot, tolerances.alone, tolerances.alone_loss)}), first in {place}"
            )
            return Fault(what, describer.cause(slot, is_place=True), place, "place")
    return None


def _angles_fault(findings: Findings, describer: _Describer) -> Fault | None:
    slots = torch.nonzero(findings.signs[:, Sign.ANGLES_OF_ROW]).flatten().tolist()
    if not slots:
        return None
    place = describer.place(slots[0])
    return Fault(
        f"rotary positions run through all documents of a row in {place}",
        "the table of angles is as long as the row, which Megatron takes for that; max_seqlen must "
        "not be the length of the row (RowShape.max_seqlen)",
        place,
        "place",
    )


def _balancing_fault(findings: Findings, describer: _Describer) -> Fault | None:
    slots = torch.nonzero(findings.signs[:, Sign.COUNTS_PADDING]).flatten().tolist()
    if not slots:
        return None
    place = describer.place(slots[0])
    return Fault(
        f"the balancing loss of the router in {place} changed when padding got other tokens",
        "the router counts padding as tokens; the model must get padding_mask, as run_model hands "
        "it on",
        place,
    )


def _loss_fault(findings: Findings) -> Fault | None:
    loss = findings.loss
    if loss is None:
        return None
    if not loss.has_denominator:
        return Fault(
            "the loss function returns two values, so Megatron averages the means of rows",
            "it must return the sum of the weighted losses, the row's denominator and the report",
        )
    wrong = abs(loss.denominator - loss.expected_denominator) > 0.5
    averaged = loss.expected_loss / max(1.0, loss.expected_denominator)
    is_averaged = loss.expected_denominator > 1 and abs(loss.loss - averaged) <= 1e-2 * abs(
        averaged
    )
    if not wrong and not is_averaged:
        return None
    return Fault(
        f"the loss function returned the loss {loss.loss:.6g} over a denominator of "
        f"{loss.denominator:g} for a row whose weighted losses sum to {loss.expected_loss:.6g} "
        f"over {loss.expected_denominator:g}",
        "it must divide nothing and return batch.denominator, or the weight of a token depends on "
        "its row",
    )


class _Describer:
    """Names places of the model and likely causes."""

    def __init__(self, findings: Findings, *, recomputes: bool, context_parallel: bool) -> None:
        self._signs = findings.signs
        self._recomputes = recomputes
        self._context_parallel = context_parallel

    def place(self, slot: int, one: Comparison | None = None, at: int | None = None) -> str:
        """Name a slot, its pipeline stage, and the context-parallel ranks that hold it."""
        num_slots = len(self._signs)
        num_layers = num_slots - 2 - int(self._signs[:, Sign.IS_MULTI_TOKEN].sum())
        if slot == 0:
            name = "the embedding"
        elif slot == num_slots - 1:
            name, slot = "what follows the last layer", num_layers
        elif slot > num_layers:
            name = f"layer {slot - num_layers} of multi-token prediction ({self._kind(slot)})"
        else:
            name = f"layer {slot} of {num_layers} ({self._kind(slot)})"
        stage = int(self._signs[slot, Sign.STAGE]) - 1
        where = f" on pipeline stage {max(stage, 0)}"
        if one is not None:
            ranks = torch.nonzero(one.ranks[slot if at is None else at] > 0).flatten().tolist()
            where += f", context-parallel rank {' and '.join(map(str, ranks or [0]))}"
        return name + where

    def cause(self, slot: int, *, only_backward: bool = False, is_place: bool = False) -> str:
        """Say what likely is the cause of a leak that shows first in a slot."""
        return "likely " + next(self._causes(slot, only_backward, is_place))

    def _causes(self, slot: int, only_backward: bool, is_place: bool) -> Iterator[str]:
        signs = self._signs
        if signs[0, Sign.OTHER_TOKENS]:
            yield (
                "a wrong order of context-parallel chunks: rank r must hold chunks r and "
                "2 * size - 1 - r of each document (thd.context_parallel)"
                if self._context_parallel
                else "a batch function that gives the model other tokens than the row's"
            )
        if signs[0, Sign.OTHER_POSITIONS]:
            yield (
                "position ids that do not restart in each document: the model must get the row's "
                "own position_ids"
            )
        layer = signs[slot] if slot < len(signs) - 1 else signs[-2]
        if layer[Sign.NO_BOUNDARIES]:
            yield (
                "because it got no cu_seqlens: forward_step must give packed_seq_params to the "
                "model on every pipeline stage, the middle ones too"
            )
        if layer[Sign.OTHER_BOUNDARIES]:
            found, expected = (int(layer[sign]) for sign in (Sign.FOUND_END, Sign.EXPECTED_END))
            yield (
                f"because it got other cu_seqlens than the row's: {found:,} where a document "
                f"starts at {expected:,}"
            )
        if layer[Sign.LOST_IN_BACKWARD]:
            yield "because it gets other cu_seqlens where it is computed again in the backward pass"
        if layer[Sign.NO_SEGMENT_INDEX]:
            yield "because Mamba got no seq_idx in packed_seq_params (run_model adds it)"
        if layer[Sign.IS_MULTI_TOKEN]:
            yield (
                "the tokens or targets that it shifts cross the end of a document, or its "
                "layers ignore cu_seqlens"
            )
        if layer[Sign.IS_MAMBA] or layer[Sign.IS_DELTA_NET]:
            kernel = "causal-conv1d and mamba-ssm" if layer[Sign.IS_MAMBA] else "fla"
            yield (
                f"its kernels carry the state of the convolution or of the recurrence over the "
                f"boundary: compare the versions of {kernel} with those of SUPPORT.md"
            )
        if only_backward and self._recomputes:
            yield (
                "the boundaries are lost where layers are computed again (--recompute-granularity)"
            )
        if is_place:
            yield "something that depends on the place of a document in its row, as positions do"
        if layer[Sign.HAS_EXPERTS]:
            yield "its attention kernel ignores cu_seqlens, or its experts have a capacity"
        if slot == 0:
            yield "an embedding that mixes positions"
        yield "its attention kernel or mask ignores cu_seqlens"

    def _kind(self, slot: int) -> str:
        signs = self._signs[slot]
        if signs[Sign.IS_MAMBA]:
            return "Mamba"
        if signs[Sign.IS_DELTA_NET]:
            return "gated delta net"
        return "experts" if signs[Sign.HAS_EXPERTS] else "attention"
