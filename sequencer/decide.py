"""The judgement: one submission against its aggregate's tail, and a batch of them against each other. Pure.

`judge` is the rule. `Overlay` applies it to a batch: it knows the tail of every aggregate as of everything decided so
far, committed or not, because the next batch is judged while the last one is still being committed. The index only
hears of a batch after its commit (`partition.py`); until then the overlay alone knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol, cast

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
from sequencer.plain import AcceptedRun, PlainBatch

TAIL_CACHE_AGGREGATES = 200_000
"""Aggregates whose tails an overlay holds in memory; beyond it the least recently seen half is dropped."""


class Index(Protocol):
    """What the overlay asks of the version index."""

    def tails(self, keys: Sequence[str]) -> list[int]: ...
    def accepted(self, asked: Sequence[tuple[bytes, str]]) -> list[tuple[int, int] | None]: ...


Outcome = Accepted | AcceptedRun | Rejected | Forwarded


class AcceptedIds:
    """Under which id each event was accepted, in the order of the sequences: columns, to which a judgement appends."""

    def __init__(self, first_sequence: int) -> None:
        self.first_sequence = first_sequence
        self.event_ids: list[bytes] = []
        self.keys: list[str] = []
        self.versions: list[int] = []
        self._seen: set[bytes] = set()
        self._looked_through = 0
        self._places: dict[tuple[bytes, str], int] = {}
        self._placed = 0

    def note(self, batch: PlainBatch, first_row: int, end_row: int) -> None:
        """These rows were accepted; their versions are noted already."""
        self.event_ids += batch.event_ids[first_row:end_row]
        self.keys += batch.keys[first_row:end_row]

    def find(self, event_id: bytes, key: str) -> tuple[int, int] | None:
        """Version and sequence of the aggregate's latest event with this id.

        Prepared at the first call: most batches hold nothing that could be a duplicate, and are never asked. Of those
        that are asked most do not know the id, and a set says so: the places are thousands of tuples more, for which
        everything else that is in the processor's cache must go.
        """
        event_ids, seen, places = self.event_ids, self._seen, self._places
        if self._looked_through < len(event_ids):
            seen.update(event_ids[self._looked_through :])
            self._looked_through = len(event_ids)
        if event_id not in seen:
            return None
        if self._placed < len(event_ids):
            rows = zip(event_ids[self._placed :], self.keys[self._placed :], strict=True)
            places.update(zip(rows, count(self._placed), strict=False))
            self._placed = len(event_ids)
        found = places.get((event_id, key))
        return None if found is None else (self.versions[found], self.first_sequence + found)

    def rows(self) -> Iterator[tuple[bytes, str, int, int]]:
        """Id, aggregate, version and sequence of each."""
        return zip(self.event_ids, self.keys, self.versions, count(self.first_sequence), strict=False)


class Decided(NamedTuple):
    """What was judged for one transaction, and what its commit changes in the index."""

    outcomes: Sequence[Outcome]
    """Of the submissions that were judged last, in their order; but what is accepted of a plain batch comes before what
    is not."""
    messages: int
    """How many submissions were judged for the transaction."""
    ids: AcceptedIds
    """Of every event that was accepted for it."""

    @property
    def tails(self) -> Mapping[str, int]:
        """Aggregate -> new tail, of every aggregate that got an event."""
        # Of an aggregate that comes again the last version stays.
        return dict(zip(self.ids.keys, self.ids.versions, strict=True))

    @property
    def next_sequence(self) -> int:
        """The sequence that the first accepted event after this one's gets."""
        return self.ids.first_sequence + len(self.ids.keys)


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


def _duplicate(submission: Submission, tail: int | None, first: tuple[int, int], last: tuple[int, int]) -> Rejected:
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
        self._unapplied: deque[AcceptedIds] = deque()  # the last one is that of the batch being judged
        self._known: dict[tuple[bytes, str], tuple[int, int]] = {}  # to the index, of the ids that it was asked for
        self._in_flight = 0

    def decide(self, submissions: Sequence[Submission | Flawed | PlainBatch], before: Decided | None = None) -> Decided:
        """Judge submissions in order. Nothing reaches the index; `applied` must follow when the transaction has.

        Args:
            before: what was decided last, where this belongs to the same transaction.
        """
        if len(self._young) > self._half:
            self._old, self._young = self._young, {}
        if before is None:
            messages, ids = 0, AcceptedIds(self._next_sequence)
            self._unapplied.append(ids)
        else:
            messages, ids = before.messages, before.ids
            assert ids is self._unapplied[-1], "a transaction is decided before the next one is begun"
        # One look-up for all of them: most publishers that do not batch send one message an entry.
        self._tails([one.key for one in submissions if type(one) is Submission])
        self._known = self._look_up(list(_ids_to_know(submissions)))
        judged = 0
        outcomes: list[Outcome] = []
        for submission in submissions:
            if isinstance(submission, PlainBatch):
                judged += len(submission.keys)
                outcomes += self._judge_batch(submission, ids)
            else:
                judged += 1
                outcomes.append(self._judge_one(submission, ids))
        self._tell_duplicates(outcomes)
        self._in_flight += judged
        assert self._in_flight <= self._half, "more events decided and not applied than the overlay can hold"
        decided = Decided(outcomes, messages + judged, ids)
        self._next_sequence = decided.next_sequence
        return decided

    def _judge_one(self, submission: Submission | Flawed, ids: AcceptedIds) -> Accepted | Rejected | Forwarded:
        if isinstance(submission, Flawed):
            return Rejected(submission, submission.reason, submission.detail)
        verdict = self._verdict(submission)
        if not isinstance(verdict, int):
            return verdict
        sequence = ids.first_sequence + len(ids.keys)
        several = submission.several or (submission,)
        ids.event_ids += [event.event_id for event in several]
        ids.keys += [submission.key] * len(several)
        ids.versions += range(verdict, verdict + len(several))
        self._young[submission.key] = ids.versions[-1]
        return Accepted(submission, verdict, sequence)

    def _judge_batch(self, batch: PlainBatch, ids: AcceptedIds) -> list[AcceptedRun | Rejected | Forwarded]:
        """What is accepted, then the others.

        Where no aggregate comes twice and everybody expected what is there, the column is judged as a whole.
        """
        tails = self._tails(batch.keys)
        if tails == batch.expected and (self._partitions == 1 or NO_AGGREGATE not in tails):
            versions = [tail + 1 for tail in tails]
            new_tails = dict(zip(batch.keys, versions, strict=True))
            if len(new_tails) == len(versions):
                self._young.update(new_tails)
                run = AcceptedRun(batch, versions, ids.first_sequence + len(ids.keys))
                ids.versions += versions
                ids.note(batch, 0, len(versions))
                return [run]
        return self._judge_rows(batch, ids)

    def _judge_rows(self, batch: PlainBatch, ids: AcceptedIds) -> list[AcceptedRun | Rejected | Forwarded]:
        """`_judge_batch`, row by row. Most rows take the first branch, so that one asks little."""
        tails, versions = self._young, ids.versions
        first, noted = len(versions), 0
        looked_up = False
        others: dict[int, Rejected | Forwarded] = {}
        for row, (key, expected) in enumerate(zip(batch.keys, batch.expected, strict=True)):
            tail = tails[key]
            if expected == tail and (tail >= 0 or self._is_home_of(key)):
                tail += 1
            else:
                ids.note(batch, noted, row)
                noted = row
                if expected is None and not looked_up:
                    self._known |= self._look_up(_ids_to_know_of(batch))
                    looked_up = True
                verdict = self._verdict(batch.submission(row))
                if not isinstance(verdict, int):
                    others[row] = verdict
                    noted = row + 1
                    continue
                tail = verdict
            tails[key] = tail
            versions.append(tail)
        ids.note(batch, noted, len(batch.keys))
        if not others:
            return [AcceptedRun(batch, versions[first:], ids.first_sequence + first)]
        if len(versions) == first:
            return list(others.values())
        chosen = bytearray(b"\1") * len(batch.keys)
        for row in others:
            chosen[row] = 0
        accepted = batch.only(chosen)
        return [AcceptedRun(accepted, versions[first:], ids.first_sequence + first), *others.values()]

    def _verdict(self, submission: Submission) -> int | Rejected | Forwarded:
        """What `judge` says, where the aggregate is at home here."""
        tail = self._young[submission.key]
        if tail == NO_AGGREGATE and (misrouted := self._misrouted(submission)):
            return misrouted
        return judge(submission, tail, self._accepted_before)

    def applied(self, decided: Decided) -> None:
        """The oldest batch that was decided is now in the index: its ids are found there."""
        assert self._unapplied[0] is decided.ids, "batches are applied in the order they were decided"
        self._unapplied.popleft()
        self._in_flight -= decided.messages

    def _tails(self, keys: Sequence[str]) -> list[int]:
        """The tail of every aggregate; afterwards all of them are in the young generation."""
        young, old = self._young, self._old
        tails = list(map(young.get, keys))
        if None not in tails:
            return cast("list[int]", tails)
        unknown = []
        for key in {key for key, tail in zip(keys, tails, strict=True) if tail is None}:
            known = old.get(key)
            if known is None:
                unknown.append(key)
            else:
                young[key] = known
        if unknown:
            young.update(zip(unknown, self._index.tails(unknown), strict=True))
        return [young[key] if tail is None else tail for key, tail in zip(keys, tails, strict=True)]

    def _accepted_before(self, event_id: bytes, key: str) -> tuple[int, int] | None:
        """As far as it is known without asking the index: what is in flight, and what `_look_up` has brought."""
        for ids in reversed(self._unapplied):
            before = ids.find(event_id, key)
            if before is not None:
                return before
        return self._known.get((event_id, key))

    def _tell_duplicates(self, outcomes: list[Outcome]) -> None:
        """A single event whose expected version does not match is rejected either way: whether the index remembers its
        id, so that it is a duplicate, is asked last and for all of them at once. A look-up by itself costs several
        times as much."""
        conflicts = [
            (place, outcome, outcome.submission)
            for place, outcome in enumerate(outcomes)
            if isinstance(outcome, Rejected)
            and outcome.reason == Reason.WRONG_EXPECTED_VERSION
            and isinstance(outcome.submission, Submission)
            and outcome.submission.several is None
        ]
        known = self._look_up([(submission.event_id, submission.key) for _, _, submission in conflicts])
        for place, conflict, submission in conflicts if known else ():
            if before := known.get((submission.event_id, submission.key)):
                outcomes[place] = _duplicate(submission, conflict.current, before, before)

    def _look_up(self, asked: Sequence[tuple[bytes, str]]) -> dict[tuple[bytes, str], tuple[int, int]]:
        """What the index remembers of these ids and aggregates."""
        found = self._index.accepted(asked) if asked else []
        return {row: before for row, before in zip(asked, found, strict=True) if before is not None}

    def _misrouted(self, submission: Submission) -> Rejected | Forwarded | None:
        """What to do with it where another partition is the aggregate's own: forward it, but only once.

        Asked only where the aggregate does not exist here: an aggregate that exists was asked at its first event.
        """
        if self._is_home_of(submission.key):
            return None
        home = canonical_partition(submission.key, self._partitions)
        if not submission.forwarded:
            return Forwarded(submission, home)
        detail = f"the key belongs to partition {home} of {self._partitions}, it arrived in {self._partition}"
        return Rejected(submission, Reason.MISROUTED, detail, submission.expected)

    def _is_home_of(self, key: str) -> bool:
        return self._partitions == 1 or canonical_partition(key, self._partitions) == self._partition


def _ids_to_know(submissions: Iterable[Submission | Flawed | PlainBatch]) -> Iterator[tuple[bytes, str]]:
    """The ids, and their aggregates, without which these cannot be judged: of events that any version suits, and of
    lists. Those of a batch are left to it: most batches have none, and to find that out takes time."""
    for one in submissions:
        if not isinstance(one, Submission):
            continue
        if one.several is not None:
            yield from ((member.event_id, one.key) for member in one.several)
        elif one.expected is None:
            yield one.event_id, one.key


def _ids_to_know_of(batch: PlainBatch) -> list[tuple[bytes, str]]:
    """The same, of a batch."""
    columns = zip(batch.event_ids, batch.keys, batch.expected, strict=True)
    return [(event_id, key) for event_id, key, expected in columns if expected is None]
