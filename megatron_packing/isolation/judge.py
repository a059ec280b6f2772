# SPDX-License-Identifier: Apache-2.0
"""Decides whether a Hugging Face model keeps documents apart, and names what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

from megatron_packing.isolation.comparison import (
    describe_given,
    first_moved,
    first_not_finite,
    how_far,
    last_given,
    name_documents,
)
from megatron_packing.isolation.kernels import KernelCalls
from megatron_packing.isolation.passes import Passes
from megatron_packing.isolation.recorder import (
    Recorder,
    has_experts,
    is_attention,
    is_recurrent,
)
from megatron_packing.isolation.result import Finding, Outcome, RowForm
from megatron_packing.isolation.tolerances import Precision, Tolerances


def judge(
    model: Any,
    form: RowForm,
    attention: str,
    recorder: Recorder,
    passes: Passes,
    calls: KernelCalls,
) -> Finding:
    """Judge what the rows of a check gave.

    Args:
        model: The model.
        form: How rows were told to it.
        attention: The name of its attention implementation.
        recorder: What was seen in it.
        passes: What was compared.
        calls: What its kernels were told.
    """
    precision = Precision.of(
        model.dtype,
        fp8=False,
        shares_scales=False,
        experts=has_experts(model),
        recurrent=any(is_recurrent(module) for module in recorder.modules.values()),
        on_gpu=model.device.type != "cpu",
    )
    again = passes.comparisons["again"]
    slot = first_not_finite(again)
    if slot is not None:  # else nothing would be beyond its noise
        place = describe_place(recorder, recorder.slots[slot])
        fault = f"a row gives numbers that are not finite, first in {place}"
        return Finding(rows=form, attention=attention, outcome="refused", fault=fault)
    tolerances = Tolerances.of(again, passes.typical_loss, precision)
    causes = _Causes(form, attention, recorder, passes, calls)
    found = _fault(recorder, passes, tolerances, causes)
    outcome, sentence, layer, cause = found or ("apart", "", "", "")
    return Finding(
        rows=form,
        attention=attention,
        outcome=outcome,
        moved=_largest(passes, "replaced", slice(-1, None)),
        alone=_largest(passes, "alone", slice(-1, None)),
        gradient=_largest(passes, "gradient", slice(0, -1)),
        fault=sentence,
        layer=layer,
        cause=cause,
    )


def _largest(passes: Passes, kind: str, slots: slice) -> float:
    return max(
        float(one.moved[slots].max())
        for name, one in passes.comparisons.items()
        if name.startswith(kind)
    )


def _fault(
    recorder: Recorder, passes: Passes, tolerances: Tolerances, causes: _Causes
) -> tuple[Outcome, str, str, str] | None:
    """Return the outcome, the sentence, where it shows first and the cause; None if none."""
    for number in (0, 1):
        one = passes.comparisons[f"replaced {number}"]
        if found := first_moved(one, tolerances.replaced, tolerances.replaced_loss):
            slot, segments = found
            place, cause = recorder.slots[slot], causes.of(recorder.slots[slot])
            others = name_documents(passes.alternate(number))
            sentence = (
                f"{name_documents(segments)} of a row changed when {others} got other tokens "
                f"({how_far(one, slot, tolerances.replaced, tolerances.replaced_loss)}), first in "
                f"{describe_place(recorder, place)}"
            )
            return "leaks", sentence, place, cause
    for number in (0, 1):
        one = passes.comparisons[f"gradient {number}"]
        if given := last_given(one):
            last, segments = given
            place = recorder.slots[last + 1]  # what takes the output that got it
            sources = name_documents(passes.alternate(number))
            sentence = describe_given(one, sources, segments, describe_place(recorder, place))
            return "leaks", sentence, place, causes.of(place)
    for segment in range(len(passes.row.lengths)):
        one = passes.comparisons[f"alone {segment}"]
        if found := first_moved(one, tolerances.alone, tolerances.alone_loss):
            place = recorder.slots[found[0]]
            sentence = (
                f"{name_documents([segment])} of a row sees no other document, but is not "
                f"computed as alone in a row "
                f"({how_far(one, found[0], tolerances.alone, tolerances.alone_loss)}), first in "
                f"{describe_place(recorder, place)}"
            )
            return "place", sentence, place, causes.of(place, is_place=True)
    return None


def describe_place(recorder: Recorder, slot: str) -> str:
    """Name a slot with the class of its module."""
    module = recorder.module_of(slot)
    return "what follows the last layer" if module is None else f"{slot} ({type(module).__name__})"


class _Causes:
    """Names likely causes."""

    def __init__(
        self,
        form: RowForm,
        attention: str,
        recorder: Recorder,
        passes: Passes,
        calls: KernelCalls,
    ) -> None:
        self._form, self._attention = form, attention
        self._recorder, self._passes, self._calls = recorder, passes, calls

    def of(self, slot: str, *, is_place: bool = False) -> str:
        """Return the likely cause of what shows first in a slot."""
        return next(self._causes(slot, is_place))

    def _causes(self, slot: str, is_place: bool) -> Iterator[str]:
        module = self._recorder.module_of(slot)
        told = self._recorder.told.get(slot.partition(" ")[0], frozenset())
        if "position_ids" in self._passes.not_taken:
            yield (
                "the model takes no position_ids, and nothing else that it takes has the "
                "boundaries of documents"
            )
        if is_place:
            yield "positions that do not restart in each document"
        if is_recurrent(module) and (causes := self._calls.causes()):
            yield " and ".join(causes)
        if is_recurrent(module):
            yield (
                "its convolution or state runs through the row, as transformers gives it nothing "
                "that has the boundaries of documents"
            )
        if is_attention(module) and self._attention.startswith("flash"):
            yield (
                "flash attention runs over the whole row: the layer hands on neither "
                "position_ids nor cu_seq_lens_q"
                if not told & {"position_ids", "cu_seq_lens_q"}
                else "flash attention gets other boundaries than the row's"
            )
        if is_attention(module) and "attention_mask" not in told:
            yield (
                "its attention got no mask, so it is causal over the whole row: the model does "
                "not make one from position_ids"
            )
        if is_attention(module) and self._recorder.masks.get(slot.partition(" ")[0]):
            yield (
                "its mask lets documents see each other: the model does not make it from "
                "position_ids"
            )
        if is_attention(module):
            yield (
                "its mask keeps documents apart, but it mixes positions beside that, as "
                "compressed keys or an index of keys do"
            )
        if module is None:
            yield "a norm or a head that mixes positions"
        yield "it mixes positions, though it is neither attention nor recurrent"
