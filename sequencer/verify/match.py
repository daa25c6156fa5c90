"""Brings together what belongs together: submissions, their outcomes and their forwarded copies. Pure.

All three are sorted by the submission's position, so that one pass over them does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sequencer.pulsar.frames import MessageId
from sequencer.verify.records import Acknowledged
from sequencer.verify.report import Findings, Invariant
from sequencer.verify.tables import (
    ACCEPTED,
    POSITION_BYTES,
    Outcome,
    Submission,
    Tables,
    entry_of,
    partition_prefix,
    unpacked,
)

PREFIX_BYTES: Final = 4  # of the partition in front of a key
EVERYTHING: Final = b"\xff" * POSITION_BYTES  # after every position


class Scope(NamedTuple):
    """What is known of the partition as a whole."""

    number: int
    first: bytes | None  # the first position that the input still held when it was read; None: it held nothing
    last: bytes  # the last one that was read
    seen: bytes  # before this position everything was judged by an earlier report
    settled: bytes  # before this position nothing is under way any more: what is missing is missing for good
    frontier: bytes  # before this position the sequencer has, or may have, worked
    acknowledged: Acknowledged | None
    events: int  # accepted events that were read


class Found(NamedTuple):
    """An outcome with what its row's key says."""

    submission: bytes
    kind: bytes
    position: bytes
    outcome: Outcome


class Item(NamedTuple):
    """A submission and all that belongs to it; without one, an outcome that belongs to nothing."""

    position: bytes
    submission: Submission | None
    was_open: bool
    outcomes: list[Found]  # the accepted events first, in the order of the log
    copy: bytes  # target partition and position of the first copy; empty: it was not forwarded


class _Stream:
    """Sorted rows, of which those up to a position are taken one after another."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._rows = rows
        self._head = next(rows, None)

    def up_to(self, position: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The next rows of submissions up to and including a position. To be taken to the last one."""
        while self._head is not None and self._head[0][PREFIX_BYTES : PREFIX_BYTES + POSITION_BYTES] <= position:
            yield self._head
            self._head = next(self._rows, None)


class Matching:
    """One pass over what was not judged before.

    It stops at the first submission that has no outcome, or not all of one, and may still get it.

    Attributes:
        stopped_at: where it stopped; None: it came to the end.
    """

    def __init__(self, tables: Tables, scope: Scope, findings: Findings) -> None:
        self._tables = tables
        self._scope = scope
        self._prefix = partition_prefix(scope.number)
        self._findings = findings
        self.stopped_at: bytes | None = None

    def items(self) -> Iterator[Item]:
        """In the order of the submissions. What is yielded must be judged before the rows are dropped."""
        first, end = self._prefix, partition_prefix(self._scope.number + 1)
        outcomes = _Stream(self._tables["outcomes"].scan(first, end))
        copies = _Stream(self._tables["copies"].scan(first, end))
        whole: Found | None = None
        for position, submission, was_open in self._submissions(first, end):
            here: list[Found] = []
            for found in map(_found, outcomes.up_to(position)):
                if found.submission == position:
                    here.append(found)
                elif _is_of_entry(found, position):
                    whole = found
                else:
                    yield Item(found.submission, None, False, [found], b"")
            if whole is not None and _is_of_entry(whole, position):
                here.insert(0, whole)
            copy = self._copy(copies.up_to(position), position, submission.aggregate)
            known = copy or submission.answered or _is_complete(submission, here)
            if not known and position >= self._scope.settled:
                self.stopped_at = position
                return
            yield Item(position, submission, was_open, here, copy)
        for found in map(_found, outcomes.up_to(EVERYTHING)):
            yield Item(found.submission, None, False, [found], b"")
        # A copy whose original lies after what was read may have been made after that.
        self._copy(copies.up_to(self._end_of_input()), EVERYTHING, b"")

    def _submissions(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, Submission, bool]]:
        """Those left open before come first: they lie before all others."""
        for name, was_open in (("open", True), ("submitted", False)):
            for key, value in self._tables[name].scan(first, end):
                yield key[PREFIX_BYTES:], Submission.from_bytes(value), was_open

    def _copy(self, rows: Iterator[tuple[bytes, bytes]], position: bytes, aggregate: bytes) -> bytes:
        """The first copy of the message at a position, if there is one among the rows; checks all of them."""
        first = b""
        for key, value in rows:
            original, copy = key[PREFIX_BYTES : PREFIX_BYTES + POSITION_BYTES], key[PREFIX_BYTES + POSITION_BYTES :]
            if original == position:
                first = first or copy
                if aggregate != value:
                    what = "a forwarded copy with another key than its original's"
                    self._findings.violated(Invariant.I3, what, unpacked(original, self._scope.number), copy_id(copy))
            elif self._scope.first is not None and original >= max(self._scope.first, self._scope.seen):
                what = "forwarded from nothing that was submitted"
                self._findings.violated(Invariant.I3, what, unpacked(original, self._scope.number), copy_id(copy))
        return first

    def _end_of_input(self) -> bytes:
        return entry_of(self._scope.last) + b"\xff" * 4

    def drop_judged(self) -> None:
        """Remove the rows of everything before the position where it stopped."""
        end = partition_prefix(self._scope.number + 1)
        if self.stopped_at is not None:
            end = self._prefix + self.stopped_at
        for name in ("submitted", "outcomes"):
            self._tables[name].drop(self._prefix, end)
        self._tables["copies"].drop(self._prefix, self._prefix + (self.stopped_at or self._end_of_input()))


def _found(row: tuple[bytes, bytes]) -> Found:
    key, value = row
    at = PREFIX_BYTES + POSITION_BYTES
    return Found(key[PREFIX_BYTES:at], key[at : at + 1], key[at + 1 :], Outcome.from_bytes(value))


def _is_complete(submission: Submission, outcomes: list[Found]) -> bool:
    """Whether all of its outcome was read: of a list, each of its events."""
    return len(outcomes) >= submission.events or any(found.kind != ACCEPTED for found in outcomes)


def _is_of_entry(found: Found, position: bytes) -> bool:
    """A batch that cannot be opened is rejected as one, under its entry's id without batch index."""
    entry = entry_of(position)
    return found.kind != ACCEPTED and found.submission == entry + bytes(4) != position


def copy_id(copy: bytes) -> MessageId:
    return unpacked(copy[PREFIX_BYTES:], int.from_bytes(copy[:PREFIX_BYTES], "big"))
