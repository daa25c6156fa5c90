"""Do the clients and the log say the same? Pure.

What a client was told is compared with what `events` holds, as the verifier reads it: versions, sequence, and that a
list is in as a whole, in one piece, once. The rest, such as a rejected append that is in the log, is the checker's, who
gets the places of all appends from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.linearizability.history import NOT_SENT, Appended, Ids, Operation, Refused

Places = Mapping[str, Mapping[Ids, int]]
"""Aggregate -> append -> the version of its first event."""


class Event(NamedTuple):
    """One event of the log."""

    key: str
    version: int
    partition: int
    sequence: int
    event_id: str
    submission: str


def places(operations: Sequence[Operation], events: Sequence[Event]) -> dict[str, dict[Ids, int]]:
    """Where the log has the appends that it has. Events that nobody asked for are appends of their own."""
    appends = {event_id: one.ids for one in operations for event_id in one.ids}
    found: dict[str, dict[Ids, int]] = {one.key: {} for one in operations}
    for event in events:
        ids = appends.get(event.event_id, (event.event_id,))
        at = found.setdefault(event.key, {})
        at[ids] = min(at.get(ids, event.version), event.version)
    return found


def disagreements(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    """What is told differently, one line each."""
    by_id: dict[str, list[Event]] = {}
    for event in events:
        by_id.setdefault(event.event_id, []).append(event)
    for one in {one.ids: one for one in operations}.values():
        yield from _in_one_piece(one, [event for event_id in one.ids for event in by_id.get(event_id, [])])
    for one in operations:
        stored = by_id.get(one.ids[0], [])
        match one.answer:
            case Appended() if not stored:
                yield f"it is not in the log: {one}"
            case Appended(version, _, sequence) if (version, sequence) != (stored[0].version, stored[0].sequence):
                yield f"it is version {stored[0].version}, sequence {stored[0].sequence} in the log: {one}"
            case Refused(reason) if reason != NOT_SENT:
                yield f"nothing was wrong with it: {one}"


def _in_one_piece(one: Operation, found: Sequence[Event]) -> Iterator[str]:
    """All of an append's events or none, each once, one after the other, from one submission."""
    if not found:
        return
    begin = found[0]
    right = [
        Event(one.key, begin.version + n, begin.partition, begin.sequence + n, event_id, begin.submission)
        for n, event_id in enumerate(one.ids)
    ]
    if list(found) != right:
        yield f"not as one piece in the log: {one}: {[event[:5] for event in found]}"
