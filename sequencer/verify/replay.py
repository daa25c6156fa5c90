"""Judges one partition's submissions in log order against their outcomes: I3, I4, I6, I7, and what rejections claim.

Pure. What must be known of aggregates and ids is read and written in chunks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from sequencer.pulsar.frames import MessageId
from sequencer.verify.lists import MAX_NAMED, list_fault
from sequencer.verify.match import PREFIX_BYTES, Found, Item, Matching, Scope, copy_id
from sequencer.verify.records import IdWindow
from sequencer.verify.report import Findings, Invariant
from sequencer.verify.tables import (
    ABSENT,
    ACCEPTED,
    CONFLICTING_IDS,
    DUPLICATE,
    KEYLESS,
    NO_COPY,
    NO_POSITION,
    OTHER_REASON,
    UNREADABLE,
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
"""Submissions, or events of lists, that are judged between one reading and writing of the tables and the next: about
20 MB of memory."""


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
        size = 0
        for item in self._matching.items():
            chunk.append(item)
            size += max(len(item.outcomes), item.submission.events if item.submission else 1)
            if size >= CHUNK_ROWS:
                self._judge(chunk)
                chunk, size = [], 0
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
            submission = item.submission
            aggregate = (submission or item.outcomes[0].outcome).aggregate
            event_ids = submission.event_ids if submission else [item.outcomes[0].outcome.event_id]
            if item.outcomes or item.copy:
                aggregates.add(self._prefix + aggregate)
            if any(found.kind == ACCEPTED or found.outcome.reason != OTHER_REASON for found in item.outcomes):
                ids.update(self._prefix + event_id + aggregate for event_id in event_ids)
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
        surplus = item.outcomes
        if surplus and not submission.answered:
            surplus = self._replay(item.position, submission, surplus)
        for found in surplus:
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

    def _replay(self, position: bytes, submission: Submission, outcomes: list[Found]) -> list[Found]:
        """Judge the outcome of a submission. Returns what is more than one."""
        if submission.members and any(found.kind == ACCEPTED for found in outcomes):
            self._replay_list(submission, outcomes)
            return []
        found = outcomes[0]
        if found.submission == position:
            # The outcome of a whole entry describes none of its messages.
            self._check_description(submission, found)
            self._check_order(found, submission.aggregate)
        if found.kind == ACCEPTED:
            self._check_expected(submission, found)
            self._check_id(submission, submission.event_id, submission.expected, found)
        else:
            self._rejected(submission, found)
        return outcomes[1:]

    def _replay_list(self, submission: Submission, outcomes: list[Found]) -> None:
        """Judge a list of which something was accepted."""
        events = [found for found in outcomes if found.kind == ACCEPTED]
        others = [found for found in outcomes if found.kind != ACCEPTED]
        event_ids = submission.event_ids
        self._check_order(events[0], submission.aggregate, last=events[-1])
        fault = list_fault(event_ids, events)
        if others:
            what = f"rejected, and {len(events)} of the {len(event_ids)} events of the list accepted"
            self._name(what, submission, [*others, *events][:MAX_NAMED])
        elif fault:
            self._name(fault.what, submission, fault.events)
        if others or fault:
            for found in events:
                self._remember(found, submission.aggregate, found.outcome.event_id, ABSENT)
            return
        self._check_expected(submission, events[0])
        for number, (event_id, found) in enumerate(zip(event_ids, events, strict=True)):
            if found.outcome.aggregate != submission.aggregate:
                self._name("an event of the list with another key than its own", submission, [found])
            expected = ABSENT if submission.expected == ABSENT else submission.expected + number
            self._check_id(submission, event_id, expected, found)

    def _name(self, what: str, submission: Submission, outcomes: Sequence[Found]) -> None:
        """A violation of I3."""
        ids = [self._id(outcomes[0].submission), *(self._id(found.position) for found in outcomes)]
        self._findings.violated(Invariant.I3, what, *ids)

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

    def _check_order(self, found: Found, aggregate: bytes, *, last: Found | None = None) -> None:
        """An aggregate's outcomes stand in each output in the order of their submissions.

        Args:
            last: the last event of the list that `found` is the first event of.
        """
        self._findings.checked[Invariant.I7] += 1
        key = self._prefix + aggregate
        state = self._judged[key]
        before = state.accepted if found.kind == ACCEPTED else state.rejected
        if aggregate != KEYLESS and found.position < before:
            ids = self._id(found.submission), self._id(found.position), self._id(before)
            self._findings.violated(Invariant.I7, "an outcome before that of an earlier submission", *ids)
        end = max(before, (last or found).position)
        if found.kind == ACCEPTED:
            self._judged[key] = state._replace(accepted=end)
        else:
            self._judged[key] = state._replace(rejected=end)

    def _check_expected(self, submission: Submission, found: Found) -> None:
        self._findings.checked[Invariant.I4] += 1
        version = found.outcome.version
        if submission.expected not in (ABSENT, version - 1):
            what = f"accepted as version {version} although it expected version {submission.expected}"
            self._findings.violated(Invariant.I4, what, self._id(found.submission), self._id(found.position))

    def _check_id(self, submission: Submission, event_id: bytes, expected: int, found: Found) -> None:
        """Args: expected: of an event of a list, the version that the one before it has."""
        self._findings.checked[Invariant.I6] += 1
        identity = self._prefix + event_id + submission.aggregate
        before = self._acceptances.get(identity)
        self._remember(found, submission.aggregate, event_id, expected)
        if before is None:
            return
        # An id that comes again is a new event if its expected version matches and is another; a retry otherwise. A
        # list is never new with an id that is remembered.
        key_before, key_now = (identity + number_to_bytes(number) for number in (before.expected, expected))
        repeated = self._tables["repeated"]
        wrong = expected != ABSENT and (key_now == key_before or repeated.get([key_now])[0] is not None)
        if expected == ABSENT or submission.members:
            wrong = wrong or self._is_remembered(before, found.outcome.published_at_ms, found.outcome.row)
        repeated.put([(key_before, b""), (key_now, b"")])
        if wrong:
            ids = self._id(before.position), self._id(found.position)
            self._findings.violated(Invariant.I6, "the same event was accepted twice", *ids)

    def _is_remembered(self, before: Acceptance, at_ms: int, row: int) -> bool:
        """Whether an acceptance is inside the id window, seen from a time and a count of events."""
        return at_ms - before.published_at_ms < self._window.ms and row - before.row < self._window.events

    def _remember(self, found: Found, aggregate: bytes, event_id: bytes, expected: int) -> None:
        key, outcome = self._prefix + aggregate, found.outcome
        state = self._judged[key]
        if outcome.version > state.tail:
            self._judged[key] = state._replace(tail=outcome.version)
        acceptance = Acceptance(outcome.version, outcome.row, outcome.published_at_ms, expected, found.position)
        self._acceptances[self._prefix + event_id + aggregate] = acceptance

    def _rejected(self, submission: Submission, found: Found) -> None:
        reason = found.outcome.reason
        if reason == OTHER_REASON:
            return
        if reason == WRONG_EXPECTED_VERSION:
            self._check_conflict(submission, found)
        self._findings.checked[Invariant.I6] += 1
        identities = [self._prefix + event_id + submission.aggregate for event_id in submission.event_ids]
        if what := self._wrong_about_ids(found, [self._acceptances.get(identity) for identity in identities]):
            self._findings.violated(Invariant.I6, what, self._id(found.submission), self._id(found.position))

    def _check_conflict(self, submission: Submission, found: Found) -> None:
        findings, version, expected = self._findings, found.outcome.version, submission.expected
        ids = self._id(found.submission), self._id(found.position)
        findings.checked[Invariant.I4] += 1
        tail = self._judged[self._prefix + submission.aggregate].tail
        if version != tail:
            findings.violated(Invariant.I4, f"rejected at version {version}, but the version was {tail}", *ids)
        elif expected in (ABSENT, tail):
            what = "any version" if expected == ABSENT else f"version {expected}"
            findings.violated(Invariant.I4, f"rejected at version {tail} although it expected {what}", *ids)

    def _wrong_about_ids(self, found: Found, looked_up: Sequence[Acceptance | None]) -> str:
        """What a rejection claims of the ids, and is not so. Empty: it is."""
        outcome = found.outcome
        known = [acceptance for acceptance in looked_up if acceptance is not None]
        # How many events there were when it was rejected is not known: not more than were read.
        remembered = [
            acceptance
            for acceptance in known
            if outcome.published_at_ms != UNREADABLE
            and self._is_remembered(acceptance, outcome.published_at_ms, self._scope.events)
        ]
        if outcome.reason == DUPLICATE:
            if len(known) < len(looked_up) or known[0].version != outcome.version:
                return f"rejected as a duplicate of version {outcome.version}, which is not the same event"
        elif outcome.reason == CONFLICTING_IDS:
            if not known or len(looked_up) == 1:
                return "rejected for ids of which none, or all, were accepted before"
            if len(remembered) == len(looked_up):
                return "rejected for ids that were accepted before, all of them: it is a duplicate"
        elif remembered:
            return f"rejected for its version, and was accepted before, as version {remembered[0].version}"
        return ""

    def _id(self, position: bytes) -> MessageId:
        return unpacked(position, self._scope.number)
