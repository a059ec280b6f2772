# SPDX-License-Identifier: Apache-2.0
"""Finds the message of each span between ``{% generation %}`` marks."""

from __future__ import annotations

from bisect import bisect_left

from megatron_packing.chat.message_parts import LocatedParts
from megatron_packing.chat.template import Span
from megatron_packing.records.record import RecordError


def spans_of_turns(
    generated: list[Span], found: LocatedParts, answers: list[int], turns: list[int]
) -> tuple[dict[int, list[Span]], list[Span]]:
    """Find the spans of each trained turn.

    A span belongs to the message whose part it contains. A span without a part, such as an end
    token alone, belongs to one of the answers between the messages whose parts are before and after
    it. That is enough to know if all of these answers are trained, or if none is.

    Args:
        generated: The spans between marks, in order.
        found: The offsets of the parts of messages.
        answers: The numbers of all assistant messages.
        turns: The numbers of the trained ones.

    Returns:
        The spans of each turn, and the spans that belong to an unknown one of the turns.

    Raises:
        RecordError: It is unclear whether a span belongs to a trained turn.
    """
    offsets = found.of_messages()
    if offsets is None:
        raise _unclear()
    of_turns: dict[int, list[Span]] = {turn: [] for turn in turns}
    of_some: list[Span] = []
    latest = -1
    for start, stop in generated:
        first, after = bisect_left(offsets, (start,)), bisect_left(offsets, (stop,))
        owners = sorted({message for _, message in offsets[first:after]})
        if not owners:
            earliest = offsets[first - 1][1] if first else 0
            last = offsets[after][1] if after < len(offsets) else answers[-1]
            owners = [answer for answer in answers if earliest <= answer <= last]
        if not owners or owners[0] < latest:
            raise _unclear()
        trained = {owner in of_turns for owner in owners}
        if len(trained) > 1:
            raise _unclear()
        if len(owners) == 1:
            latest = owners[0]
            of_turns.get(latest, []).append((start, stop))
        elif True in trained:
            of_some.append((start, stop))
    return of_turns, of_some


def _unclear() -> RecordError:
    return RecordError(
        "template",
        "it is unclear whether a part that the chat template marks as generated belongs to a "
        "trained answer",
    )
