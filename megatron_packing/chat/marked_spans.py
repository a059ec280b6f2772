# SPDX-License-Identifier: Apache-2.0
"""Finds whose answer each span between ``{% generation %}`` marks is."""

from __future__ import annotations

from bisect import bisect_left

from megatron_packing.chat.message_parts import PartPlaces
from megatron_packing.chat.template import Span
from megatron_packing.records.record import RecordError


def spans_of_turns(
    generated: list[Span], found: PartPlaces, answers: list[int], turns: list[int]
) -> tuple[dict[int, list[Span]], list[Span]]:
    """The spans of each trained turn.

    A span belongs to the message of which it has a part. One that has no part of any message, such
    as an end of turn alone, is of an answer between the messages whose parts stand before and after
    it. Where there are several, it is of use if all of them are trained, or none is.

    Args:
        generated: What stands between marks, in order.
        found: Where the parts of messages are.
        answers: The numbers of all assistant messages.
        turns: Of those, the trained ones.

    Returns:
        The spans of each turn, and those that belong to one of the turns, which one is not known.

    Raises:
        RecordError: Whether a span is of a trained turn is not certain.
    """
    places = found.of_messages()
    if places is None:
        raise _not_certain()
    of_turns: dict[int, list[Span]] = {turn: [] for turn in turns}
    of_some: list[Span] = []
    latest = -1
    for start, stop in generated:
        first, after = bisect_left(places, (start,)), bisect_left(places, (stop,))
        owners = sorted({message for _, message in places[first:after]})
        if not owners:
            earliest = places[first - 1][1] if first else 0
            last = places[after][1] if after < len(places) else answers[-1]
            owners = [answer for answer in answers if earliest <= answer <= last]
        if not owners or owners[0] < latest:
            raise _not_certain()
        trained = {owner in of_turns for owner in owners}
        if len(trained) > 1:
            raise _not_certain()
        if len(owners) == 1:
            latest = owners[0]
            of_turns.get(latest, []).append((start, stop))
        elif True in trained:
            of_some.append((start, stop))
    return of_turns, of_some


def _not_certain() -> RecordError:
    return RecordError(
        "template",
        "whether a part that the chat template marks as generated belongs to an answer that is "
        "trained is not certain",
    )
