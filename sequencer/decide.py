"""The judgement: one submission against its aggregate's tail, and a batch of them against each other. Pure.

`judge` is the rule. `Overlay` applies it to a batch: it knows the tail of every aggregate as of everything decided so
far, committed or not, because the next batch is judged while the last one is still being committed. The index only
hears of a batch after its commit (`partition.py`); until then the overlay alone knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sequencer.event import (
    NO_AGGREGATE,
    Accepted,
    Flawed,
    Forwarded,
    Reason,
    Rejected,
    Submission,
    canonical_partition,
)

TAIL_CACHE_AGGREGATES = 200_000
"""Aggregates whose tails an overlay holds in memory; beyond it the least recently seen half is dropped."""


class Index(Protocol):
    """What the overlay asks of the version index."""

    def tails(self, keys: Sequence[str]) -> list[int]: ...
    def accepted(self, event_id: bytes, key: str) -> tuple[int, int] | None: ...


class Decided(NamedTuple):
    """A judged batch: its outcomes in the order of the submissions, and what its commit changes in the index."""

    outcomes: list[Accepted | Rejected | Forwarded]
    tails: Mapping[str, int]
    """Aggregate -> new tail, of every aggregate that got an event."""
    ids: Mapping[tuple[bytes, str], tuple[int, int]]
    """(event id, aggregate) -> version and sequence, of every accepted event."""
    next_sequence: int
    """The sequence that the first accepted event after this batch gets."""


def judge(
    submission: Submission, tail: int, accepted_before: Callable[[bytes, str], tuple[int, int] | None]
) -> int | Rejected:
    """The version that the submission becomes, or its first event, or why it is rejected.

    An expected version that matches is accepted without a look at the ids: a true retry cannot match any more, since
    its first copy moved the tail; the same id sent again with a newer version that matches is a new event. A list is
    always looked up: it must not add the one half of what another list, or a single event, has brought already.

    Args:
        submission: what is asked.
        tail: the aggregate's current version, -1 where there is none.
        accepted_before: the id window: (event id, aggregate) -> version and sequence that it was accepted as.
    """
    expected, key = submission.expected, submission.key
    if submission.several is None:
        if expected == tail:
            return tail + 1
        before = accepted_before(submission.event_id, key)
        if before is not None:
            return _duplicate(submission, tail, before, before)
    else:
        looked_up = [accepted_before(member.event_id, key) for member in submission.several]
        known = [before for before in looked_up if before is not None]
        if len(known) == len(looked_up):
            return _duplicate(submission, tail, known[0], known[-1])
        if known:
            detail = f"{len(known)} of {len(looked_up)} ids were accepted before"
            return Rejected(submission, Reason.CONFLICTING_IDS, detail, expected, tail)
        if expected == tail:
            return tail + 1
    if expected is None:
        return tail + 1
    found = "no such aggregate" if tail == NO_AGGREGATE else f"current version is {tail}"
    return Rejected(submission, Reason.WRONG_EXPECTED_VERSION, f"expected {expected}, {found}", expected, tail)


def _duplicate(submission: Submission, tail: int, first: tuple[int, int], last: tuple[int, int]) -> Rejected:
    return Rejected(
        submission,
        Reason.DUPLICATE,
        f"accepted before as version {first[0]}",
        submission.expected,
        tail,
        accepted=first[0],
        accepted_last=last[0],
        accepted_sequence=first[1],
    )


class Overlay:
    """Tails and ids as of everything decided, over an index that knows what is committed.

    It belongs to one run of SEQUENCE and dies with it: after a failure nobody knows which of its decisions came true.
    """

    def __init__(
        self,
        index: Index,
        *,
        partition: int,
        partitions: int,
        next_sequence: int,
        cache_aggregates: int = TAIL_CACHE_AGGREGATES,
    ) -> None:
        self._index = index
        self._partition = partition
        self._partitions = partitions
        self._next_sequence = next_sequence
        self._half = cache_aggregates // 2
        # Two generations instead of an LRU: the young one takes every look-up and every decision; when it is full it
        # becomes the old one and the old one is dropped. What is dropped was decided at least half a cache ago, and is
        # long applied: `decide` refuses to let more than that be in flight.
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._unapplied_ids: deque[Mapping[tuple[bytes, str], tuple[int, int]]] = deque()
        self._in_flight = 0

    def decide(self, submissions: Sequence[Submission | Flawed]) -> Decided:
        """Judge a batch in order. Nothing reaches the index; `applied` must follow once it did."""
        self._in_flight += len(submissions)
        assert self._in_flight <= self._half, "more events decided and not applied than the overlay can hold"
        self._look_up(submissions)
        tails, changed, ids = self._young, dict[str, int](), dict[tuple[bytes, str], tuple[int, int]]()
        self._unapplied_ids.append(ids)
        outcomes: list[Accepted | Rejected | Forwarded] = []
        sequence = self._next_sequence
        for submission in submissions:
            if isinstance(submission, Flawed):
                outcomes.append(Rejected(submission, submission.reason, submission.detail))
                continue
            key = submission.key
            tail = tails[key]
            if tail == NO_AGGREGATE and (misrouted := self._misrouted(submission)):
                outcomes.append(misrouted)
                continue
            verdict = judge(submission, tail, self._accepted_before)
            if not isinstance(verdict, int):
                outcomes.append(verdict)
                continue
            outcomes.append(Accepted(submission, verdict, sequence))
            if submission.several is None:
                tails[key] = changed[key] = verdict
                ids[submission.event_id, key] = verdict, sequence
                sequence += 1
                continue
            for member in submission.several:
                tails[key] = changed[key] = verdict
                ids[member.event_id, key] = verdict, sequence
                verdict, sequence = verdict + 1, sequence + 1
        self._next_sequence = sequence
        return Decided(outcomes, changed, ids, sequence)

    def applied(self, decided: Decided) -> None:
        """The oldest batch that was decided is now in the index: its ids are found there."""
        assert self._unapplied_ids[0] is decided.ids, "batches are applied in the order they were decided"
        self._unapplied_ids.popleft()
        self._in_flight -= len(decided.outcomes)

    def _look_up(self, submissions: Sequence[Submission | Flawed]) -> None:
        """Bring the tail of every aggregate of the batch into the young generation."""
        young, old = self._young, self._old
        keys = {submission.key for submission in submissions if type(submission) is Submission}
        missing = []
        for key in keys:
            if key not in young:
                tail = old.get(key)
                if tail is None:
                    missing.append(key)
                else:
                    young[key] = tail
        if missing:
            young.update(zip(missing, self._index.tails(missing), strict=True))
        if len(young) > self._half:
            # Dropped before this batch is judged, and after its tails were read: the young generation stays whole.
            self._old, self._young = young, {key: young[key] for key in keys}

    def _accepted_before(self, event_id: bytes, key: str) -> tuple[int, int] | None:
        for ids in reversed(self._unapplied_ids):
            before = ids.get((event_id, key))
            if before is not None:
                return before
        return self._index.accepted(event_id, key)

    def _misrouted(self, submission: Submission) -> Rejected | Forwarded | None:
        """What to do with it where another partition is the aggregate's own: forward it, but only once.

        Asked only where the aggregate does not exist here: an aggregate that exists was asked at its first event.
        """
        home = canonical_partition(submission.key, self._partitions)
        if home == self._partition:
            return None
        if not submission.forwarded:
            return Forwarded(submission, home)
        detail = f"the key belongs to partition {home} of {self._partitions}, it arrived in {self._partition}"
        return Rejected(submission, Reason.MISROUTED, detail, submission.expected)
