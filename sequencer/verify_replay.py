"""Judges one partition's submissions in log order against their outcomes: I3, I4, I6, I7, and what rejections claim.

Pure. What must be known of aggregates and ids is read and written in chunks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from sequencer.pulsar.frames import MessageId
from sequencer.verify_match import PREFIX_BYTES, Found, Item, Matching, Scope, copy_id
from sequencer.verify_records import IdWindow
from sequencer.verify_report import Findings, Invariant
from sequencer.verify_tables import (
    ABSENT,
    ACCEPTED,
    DUPLICATE,
    KEYLESS,
    NO_COPY,
    NO_POSITION,
    OTHER_REASON,
    WRONG_EXPECTED_VERSION,
    Acceptance,
    Judged,
    Submission,
    Tables,
    number_to_bytes,
    partition_prefix,
    unpacked,
)

CHUNK_ROWS: Final = 10_000
"""Submissions that are judged between one reading and writing of the tables and the next: about 20 MB of memory."""


class Replay:
    """One pass over the submissions of one partition that were not judged before.

    It stops at the first one that has no outcome and may still get one; what comes after it is judged by a later pass.

    Attributes:
        lost: submissions that should have had an outcome.
        closed: submissions whose outcome was found.
        before_retention: outcomes of submissions that the input no longer holds.
        unsettled: the first position that was left because something is under way there; None: there is none.
    """

    def __init__(
        self, tables: Tables, scope: Scope, window: IdWindow, findings: Findings, passing: Findings,
        progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Findings: what stays true is added to `findings`, what the next report must look at again to `passing`."""
        self._tables = tables
        self._scope = scope
        self._prefix = partition_prefix(scope.number)
        self._window = window
        self._findings = findings
        self._passing = passing
        self._progress = progress
        ranges = scope.acknowledged.ranges if scope.acknowledged else ()
        self._acknowledged_lasts = [last[:2] for _, last in ranges]
        self._judged: dict[bytes, Judged] = {}
        self._acceptances: dict[bytes, Acceptance] = {}
        self.lost = self.closed = self.before_retention = 0
        self.unsettled: bytes | None = None
        self._matching = Matching(tables, scope, findings)

    @property
    def stopped_at(self) -> bytes | None:
        """Where it stopped; None: it judged everything."""
        return self._matching.stopped_at

    def run(self) -> None:
        """Judge, and drop from the tables what is done with."""
        chunk: list[Item] = []
        for item in self._matching.items():
            chunk.append(item)
            if len(chunk) == CHUNK_ROWS:
                self._judge(chunk)
                chunk = []
        self._judge(chunk)
        self._matching.drop_judged()
        if self.stopped_at is not None and self.stopped_at < self._scope.frontier:
            self._wait_for(self.stopped_at)

    def _wait_for(self, position: bytes) -> None:
        self.unsettled = position if self.unsettled is None else min(self.unsettled, position)

    def _judge(self, chunk: list[Item]) -> None:
        self._fetch(chunk)
        opened: list[tuple[bytes, bytes]] = []
        closed: list[bytes] = []
        for item in chunk:
            if item.submission is None:
                self._unmatched(item.outcomes[0])
                continue
            if (item.outcomes or item.copy) and not item.submission.answered:
                self.closed += 1
                self._findings.checked[Invariant.I3] += 1
            if item.copy:
                self._forwarded(item, item.submission)
                stays_open = False
            else:
                stays_open = self._answer(item, item.submission)
            answered = item.submission.answered or bool(item.outcomes)
            if stays_open and not (item.was_open and answered == item.submission.answered):
                opened.append((self._prefix + item.position, item.submission._replace(answered=answered).to_bytes()))
            elif item.was_open and not stays_open:
                closed.append(self._prefix + item.position)
        self._tables["open"].put(opened)
        self._tables["open"].remove(closed)
        self._store()
        self._progress(len(chunk))

    def _fetch(self, chunk: list[Item]) -> None:
        """Read what the chunk's aggregates and ids were before it."""
        aggregates = set[bytes]()
        ids = set[bytes]()
        for item in chunk:
            for found in item.outcomes:
                described = item.submission or found.outcome
                aggregates.add(self._prefix + described.aggregate)
                if found.kind == ACCEPTED or found.outcome.reason == DUPLICATE:
                    ids.add(self._prefix + described.event_id + described.aggregate)
            if item.copy and item.submission:
                aggregates.add(self._prefix + item.submission.aggregate)
        keys, values = list(aggregates), self._tables["judged"].get(list(aggregates))
        self._judged = {
            key: Judged() if value is None else Judged.from_bytes(value)
            for key, value in zip(keys, values, strict=True)
        }
        keys, values = list(ids), self._tables["ids"].get(list(ids))
        self._acceptances = {
            key: Acceptance.from_bytes(value) for key, value in zip(keys, values, strict=True) if value is not None
        }

    def _store(self) -> None:
        self._tables["judged"].put((key, state.to_bytes()) for key, state in self._judged.items())
        self._tables["ids"].put((key, acceptance.to_bytes()) for key, acceptance in self._acceptances.items())

    def _unmatched(self, found: Found) -> None:
        scope = self._scope
        if scope.first is None or found.submission < scope.first:
            self.before_retention += 1
            if found.kind == ACCEPTED:
                self._remember(found, found.outcome.aggregate, found.outcome.event_id, ABSENT)
            self._check_order(found, found.outcome.aggregate)
            return
        what = "a second outcome, or one" if found.submission < scope.seen else "an outcome"
        ids = self._id(found.submission), self._id(found.position)
        self._findings.violated(Invariant.I3, f"{what} of nothing that was submitted", *ids)

    def _forwarded(self, item: Item, submission: Submission) -> None:
        """A copy is no part of a transaction: its original is acknowledged some time after it, and again forwarded if
        the sequencer dies in between. So nothing is said here about its acknowledgement."""
        if item.outcomes or submission.answered:
            ids = [self._id(item.position), *(self._id(found.position) for found in item.outcomes)]
            self._findings.violated(Invariant.I3, "forwarded, and has an outcome of its own", *ids)
        if item.copy.endswith(NO_POSITION):
            return  # it is known from its outcome only
        self._findings.checked[Invariant.I7] += 1
        key = self._prefix + submission.aggregate
        state = self._judged[key]
        if state.copied != NO_COPY and state.copied.startswith(item.copy[:PREFIX_BYTES]) and item.copy < state.copied:
            ids = [self._id(item.position), copy_id(item.copy)]
            self._findings.violated(Invariant.I7, "forwarded after a later submission", *ids)
        self._judged[key] = state._replace(copied=item.copy)

    def _answer(self, item: Item, submission: Submission) -> bool:
        """Judge a submission that was not forwarded. Returns whether it must be looked at again."""
        message_id = self._id(item.position)
        outcomes = item.outcomes
        if outcomes and not submission.answered:
            self._replay(item.position, submission, outcomes[0])
            outcomes = outcomes[1:]
        for found in outcomes:
            self._findings.violated(Invariant.I3, "a second outcome", message_id, self._id(found.position))
        acknowledged = self._is_acknowledged(message_id)
        if item.outcomes or submission.answered:
            if acknowledged is not False:
                return False
            if item.position < self._scope.settled:
                self._passing.violated(Invariant.I3, "has an outcome but is not acknowledged", message_id)
            else:
                self._wait_for(item.position)
            return True
        self._passing.checked[Invariant.I3] += 1
        if acknowledged is not False:
            self.lost += 1
            self._passing.violated(Invariant.I3, "no outcome", message_id)
        return True

    def _is_acknowledged(self, message_id: MessageId) -> bool | None:
        """None where the subscription's state was not given."""
        state = self._scope.acknowledged
        if state is None:
            return None
        position = message_id[:2]
        if position <= state.mark_delete[:2]:
            return True
        at = bisect_left(self._acknowledged_lasts, position)
        return at < len(self._acknowledged_lasts) and state.ranges[at][0][:2] < position

    def _replay(self, position: bytes, submission: Submission, found: Found) -> None:
        if found.submission == position:
            # The outcome of a whole entry describes none of its messages.
            self._check_description(submission, found)
            self._check_order(found, submission.aggregate)
        if found.kind == ACCEPTED:
            self._accepted(submission, found)
        else:
            self._rejected(submission, found)

    def _check_description(self, submission: Submission, found: Found) -> None:
        outcome = found.outcome
        same = outcome.aggregate == submission.aggregate
        if found.kind == ACCEPTED:
            same = same and outcome.event_id == submission.event_id
        elif outcome.reason == OTHER_REASON:
            # What is far too large is rejected without anything of its own.
            same = same or outcome.aggregate == KEYLESS
        else:
            same = same and outcome.event_id == submission.event_id and outcome.expected == submission.expected
        if not same:
            what = "the outcome's key, id or expected version is not its submission's"
            self._findings.violated(Invariant.I3, what, self._id(found.submission), self._id(found.position))

    def _check_order(self, found: Found, aggregate: bytes) -> None:
        """An aggregate's outcomes stand in each output in the order of their submissions."""
        self._findings.checked[Invariant.I7] += 1
        key = self._prefix + aggregate
        state = self._judged[key]
        last = state.accepted if found.kind == ACCEPTED else state.rejected
        if aggregate != KEYLESS and found.position < last:
            ids = self._id(found.submission), self._id(found.position), self._id(last)
            self._findings.violated(Invariant.I7, "an outcome before that of an earlier submission", *ids)
        if found.kind == ACCEPTED:
            self._judged[key] = Judged(state.tail, max(last, found.position), state.rejected, state.copied)
        else:
            self._judged[key] = Judged(state.tail, state.accepted, max(last, found.position), state.copied)

    def _accepted(self, submission: Submission, found: Found) -> None:
        findings, outcome = self._findings, found.outcome
        findings.checked[Invariant.I4] += 1
        if submission.expected not in (ABSENT, outcome.version - 1):
            what = f"accepted as version {outcome.version} although it expected version {submission.expected}"
            findings.violated(Invariant.I4, what, self._id(found.submission), self._id(found.position))
        findings.checked[Invariant.I6] += 1
        before = self._acceptances.get(self._prefix + submission.event_id + submission.aggregate)
        self._remember(found, submission.aggregate, submission.event_id, submission.expected)
        if before is not None:
            self._accepted_again(submission, before, found)

    def _remember(self, found: Found, aggregate: bytes, event_id: bytes, expected: int) -> None:
        key, outcome = self._prefix + aggregate, found.outcome
        state = self._judged[key]
        if outcome.version > state.tail:
            self._judged[key] = Judged(outcome.version, state.accepted, state.rejected, state.copied)
        acceptance = Acceptance(outcome.version, outcome.row, outcome.published_at_ms, expected, found.position)
        self._acceptances[self._prefix + event_id + aggregate] = acceptance

    def _accepted_again(self, submission: Submission, before: Acceptance, found: Found) -> None:
        """An id that comes again is a new event if its expected version matches and is another; a retry otherwise."""
        identity = self._prefix + submission.event_id + submission.aggregate
        key_before, key_now = (identity + number_to_bytes(number) for number in (before.expected, submission.expected))
        repeated = self._tables["repeated"]
        if submission.expected != ABSENT:
            wrong = key_now == key_before or repeated.get([key_now])[0] is not None
        else:
            elapsed_ms = found.outcome.published_at_ms - before.published_at_ms
            wrong = elapsed_ms < self._window.ms and found.outcome.row - before.row < self._window.events
        repeated.put([(key_before, b""), (key_now, b"")])
        if wrong:
            ids = self._id(before.position), self._id(found.position)
            self._findings.violated(Invariant.I6, "the same event was accepted twice", *ids)

    def _rejected(self, submission: Submission, found: Found) -> None:
        findings, outcome, expected = self._findings, found.outcome, submission.expected
        ids = self._id(found.submission), self._id(found.position)
        if outcome.reason == WRONG_EXPECTED_VERSION:
            findings.checked[Invariant.I4] += 1
            tail = self._judged[self._prefix + submission.aggregate].tail
            if outcome.version != tail:
                what = f"rejected at version {outcome.version}, but the version was {tail}"
                findings.violated(Invariant.I4, what, *ids)
            elif expected in (ABSENT, tail):
                what = "any version" if expected == ABSENT else f"version {expected}"
                findings.violated(Invariant.I4, f"rejected at version {tail} although it expected {what}", *ids)
        elif outcome.reason == DUPLICATE:
            findings.checked[Invariant.I6] += 1
            before = self._acceptances.get(self._prefix + submission.event_id + submission.aggregate)
            if before is None or before.version != outcome.version:
                what = f"rejected as a duplicate of version {outcome.version}, which is not the same event"
                findings.violated(Invariant.I6, what, *ids)

    def _id(self, position: bytes) -> MessageId:
        return unpacked(position, self._scope.number)
