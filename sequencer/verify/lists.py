"""Whether the accepted events of a list are that list: all, once each, in order, with nothing in between. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from sequencer.verify.match import Found

MAX_NAMED: Final = 10
"""Events that a violation names, of those that it is about."""


class ListFault(NamedTuple):
    """What is wrong with them, in words, and the events that show it."""

    what: str
    events: Sequence[Found]


def list_fault(event_ids: Sequence[bytes], events: Sequence[Found]) -> ListFault | None:
    """The first thing that is wrong.

    Args:
        event_ids: those of the list, in its order.
        events: those that were accepted for it, in the order of the log.
    """
    wanted, found = set(event_ids), Counter(event.outcome.event_id for event in events)
    if strangers := [event for event in events if event.outcome.event_id not in wanted]:
        return _fault("an accepted event that is not in the list", strangers)
    if len(found) < len(event_ids):
        return _fault(f"{len(found)} of the {len(event_ids)} events of a list were accepted", events)
    if doubled := [event for event in events if found[event.outcome.event_id] > 1]:
        return _fault("events of a list were accepted twice", doubled)
    if misplaced := [e for e, event_id in zip(events, event_ids, strict=True) if e.outcome.event_id != event_id]:
        return _fault("the events of a list were accepted in another order", misplaced)
    for before, after in pairwise(events):
        if after.outcome.row != before.outcome.row + 1:
            return _fault("other events between those of a list", [before, after])
    return None


def _fault(what: str, events: Sequence[Found]) -> ListFault:
    return ListFault(what, events[:MAX_NAMED])
