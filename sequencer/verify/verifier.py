"""Checks the sequencer's promises, the invariants I1 to I7, over what the topics really hold.

The caller reads each topic partition in log order and feeds every message as a small record: first the submitted
messages of all partitions, then, in any interleaving, the accepted and the rejected events; also the subscription's
acknowledgements (for the second half of I3) and the index's tails (for I5). `report()` then gives one line per
invariant, and for each violation the message ids that show it. After that more may be fed, and another report taken.

How it works: a promise about the log of events-n (I1, I2) is checked as it is fed. Everything that depends on the order
of the submissions (I3, I4, I6, I7 and what a rejection claims) is checked by `report()`, which replays the submitted
log of each partition against its outcomes (replay.py).

To judge a system that is running, fix where to stop before reading: first the ends of the outputs, then the end of the
inputs, so that every outcome's submission is among those read. Even then a moment's picture is never whole: a
transaction's outcomes and its acknowledgement do not appear at the same instant. So `report(settled)` takes for each
partition a bound before which nothing can be under way any more, such as a `frontier` of some seconds ago. What is
missing before it is a violation; at the first gap after it the judgement ends, and the next report goes on from there.

Memory: all that must be remembered is in the tables given (tables.py, on disk in spill.py); in memory
are chunks of rows. 10,000,000 events of 1,000,000 aggregates in 4 partitions: see docs/verification.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from sequencer.pulsar.frames import MessageId
from sequencer.verify.match import EVERYTHING, Scope
from sequencer.verify.records import Accepted, Acknowledged, IdWindow, Rejected, Submitted, parse_message_id
from sequencer.verify.replay import Replay
from sequencer.verify.report import Findings, Invariant, Line, Report, Violation
from sequencer.verify.tables import (
    ABSENT,
    ACCEPTED,
    CONFLICTING_IDS,
    DUPLICATE,
    KEYLESS,
    NO_ID,
    NO_POSITION,
    OTHER_REASON,
    REJECTED,
    UNREADABLE,
    WRONG_EXPECTED_VERSION,
    Logged,
    Outcome,
    Submission,
    Tables,
    after_entry,
    aggregate_of,
    entry_of,
    key_of,
    memory_tables,
    number_from_bytes,
    number_to_bytes,
    packed,
    partition_prefix,
    unpacked,
)

__all__ = [
    "UNREADABLE",
    "Accepted",
    "Acknowledged",
    "IdWindow",
    "Invariant",
    "Line",
    "Rejected",
    "Report",
    "Submitted",
    "Verifier",
    "Violation",
    "parse_message_id",
]

FED_ROWS: Final = 10_000
"""Records, and events of lists, that are held back until they are written to the tables together."""

DEFAULT_WINDOW: Final = IdWindow()
NO_AGGREGATE: Final = -1
MAX_NUMBER: Final = 2**60  # beyond every version and sequence; what is larger is as good as unreadable
_REASONS: Final = {
    "wrong_expected_version": WRONG_EXPECTED_VERSION,
    "duplicate": DUPLICATE,
    "conflicting_ids": CONFLICTING_IDS,
}


class _Partition:
    """One partition while it is fed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.prefix = partition_prefix(number)
        self.first: bytes | None = None  # of the submissions, as all positions here
        self.last = NO_POSITION
        self.seen = NO_POSITION
        self.answered = NO_POSITION  # after the last one that an outcome was read of
        self.next_sequence = 0
        self.events = 0
        self.submitted = 0
        self.closed = 0
        self.acknowledged: Acknowledged | None = None
        self.waiting_submitted: list[tuple[bytes, bytes]] = []
        self.waiting_events = 0  # that those submissions ask for
        self.waiting_accepted: list[Accepted] = []
        self.waiting_outcomes: list[tuple[bytes, bytes]] = []

    @property
    def frontier(self) -> bytes:
        """After everything that the sequencer has, or may have, worked on."""
        return max(self.answered, NO_POSITION if self.acknowledged is None else self.acknowledged.end())


class Verifier:
    """Takes the records of all partitions of one namespace and judges them.

    Args:
        window: for how long the sequencer promises to recognise an id.
        tables: where to remember things, empty; in memory where not given.
    """

    def __init__(self, window: IdWindow = DEFAULT_WINDOW, tables: Tables | None = None) -> None:
        self._window = window
        self._tables = memory_tables() if tables is None else tables
        self._partitions: dict[int, _Partition] = {}
        self._findings = Findings()
        self._before_retention = 0
        self._waiting_copies: list[tuple[bytes, bytes]] = []

    # --- feeding ---

    def submitted(self, partition: int, record: Submitted) -> None:
        """The next message of submitted_events-n; to be fed before the partition's outcomes."""
        state = self._partition(partition)
        position = packed(record.message_id)
        assert position > state.last, f"{record.message_id} is out of log order"
        state.last = position
        if state.first is None:
            state.first = position
        expected = ABSENT if record.expected_version is None else record.expected_version
        members = b"".join(record.members)
        row = Submission(_bounded(expected), False, record.event_id or NO_ID, aggregate_of(record.key), members)
        state.submitted += 1
        state.waiting_events += row.events
        state.waiting_submitted.append((state.prefix + position, row.to_bytes()))
        if record.forwarded_from is not None:
            self.copied(partition, record)
        if state.waiting_events >= FED_ROWS:
            self._flush_submitted(state)

    def copied(self, partition: int, record: Submitted) -> None:
        """A forwarded message in a partition that is not judged itself: the outcome of one in another partition.

        `submitted` does the same for the messages that it gets.
        """
        copy = partition_prefix(partition) + packed(record.message_id)
        self._copy(copy, record.forwarded_from or "", record.key, record.message_id)

    def accepted(self, partition: int, record: Accepted) -> None:
        """The next message of events-n."""
        state = self._partition(partition)
        self._check_sequence(state, record)
        state.waiting_accepted.append(record)
        if len(state.waiting_accepted) >= FED_ROWS:
            self._flush_accepted(state)

    def rejected(self, partition: int, record: Rejected) -> None:
        """The next message of rejected_events-n."""
        state = self._partition(partition)
        reason = _REASONS.get(record.reason, OTHER_REASON)
        claimed = record.accepted_version if reason == DUPLICATE else record.current_version
        outcome = Outcome(
            _bounded(UNREADABLE if claimed is None else claimed),
            _bounded(UNREADABLE if record.published_at_ms is None else record.published_at_ms),
            _bounded(ABSENT if record.expected_version is None else record.expected_version),
            reason,
            record.event_id or NO_ID,
            aggregate_of(record.key),
        )
        self._outcome(state, REJECTED, record, outcome)
        if len(state.waiting_outcomes) >= FED_ROWS:
            self._flush_outcomes(state)

    def acknowledged(self, partition: int, state: Acknowledged) -> None:
        """What the subscription on submitted_events-n has acknowledged, as of now."""
        self._partition(partition).acknowledged = state

    # --- the index ---

    def tails(self, partition: int) -> Iterator[tuple[str, int]]:
        """The partition's aggregates and their last versions, as events-n has them so far; sorted by key."""
        for aggregate, version in self._logged_versions(partition):
            if aggregate != KEYLESS:
                yield key_of(aggregate), version

    def index_tails(self, partition: int, tails: Iterable[tuple[str, int]]) -> None:
        """What the index holds, -1 = nothing, compared with all events of the partition that were fed."""
        self.indexed(partition, tails)
        self.check_index(partition)

    def indexed(self, partition: int, tails: Iterable[tuple[str, int]]) -> None:
        """What the index holds, for `check_index` to compare: before more events are fed, if it knows no more."""
        prefix = partition_prefix(partition)
        self._tables["index"].put((prefix + aggregate_of(key), number_to_bytes(tail)) for key, tail in tails)

    def check_index(self, partition: int) -> None:
        """Compare what `indexed` was given with the events that were fed up to now."""
        prefix, end = partition_prefix(partition), partition_prefix(partition + 1)
        index = self._tables["index"]
        for aggregate, tail, version in _side_by_side(
            ((key[4:], number_from_bytes(value)) for key, value in index.scan(prefix, end)),
            ((aggregate, version) for aggregate, version in self._logged_versions(partition) if aggregate != KEYLESS),
        ):
            self._findings.checked[Invariant.I5] += 1
            if tail != version:
                what = f"the index has version {tail} of {key_of(aggregate)!r}, its last event is version {version}"
                self._findings.violated(Invariant.I5, what, *self._last_event(partition, aggregate))
        index.drop(prefix, end)

    def index_is_ahead(self, what: str) -> None:
        """The index has followed events that the topic does not hold."""
        self._findings.checked[Invariant.I5] += 1
        self._findings.violated(Invariant.I5, what)

    # --- judging ---

    def frontiers(self) -> dict[int, bytes]:
        """How far the sequencer has worked on each partition: everything before has its outcome or soon shows it.

        To be compared, and to be given to a later report as `settled`.
        """
        return {number: state.frontier for number, state in self._partitions.items()}

    def unjudged(self) -> int:
        """Submissions that the next report has to look at."""
        return sum(state.submitted - state.closed for state in self._partitions.values())

    def report(
        self, settled: Mapping[int, bytes] | None = None, progress: Callable[[int], None] = lambda count: None
    ) -> Report:
        """The judgement over everything fed so far.

        Args:
            settled: partition -> bound before which nothing is under way; None: nothing is under way anywhere.
            progress: told, over and over, how many more submissions were judged.
        """
        for _, state in sorted(self._partitions.items()):
            self._flush(state)
        self._flush_copies()
        passing = Findings()
        unsettled: dict[int, bytes] = {}
        pending = 0
        for number, state in sorted(self._partitions.items()):
            bound = EVERYTHING if settled is None else settled.get(number, NO_POSITION)
            scope = Scope(
                number, state.first, state.last, state.seen, bound, state.frontier, state.acknowledged, state.events
            )
            replay = Replay(self._tables, scope, self._window, self._findings, passing, progress)
            replay.run()
            state.seen = replay.stopped_at or max(state.seen, entry_of(state.last) + b"\xff" * 4)
            state.closed += replay.closed
            pending += state.submitted - state.closed - replay.lost
            self._before_retention += replay.before_retention
            if replay.unsettled is not None:
                unsettled[number] = replay.unsettled
        return Report(self._findings.plus(passing).lines(), pending, self._before_retention, unsettled)

    # --- inside ---

    def _partition(self, number: int) -> _Partition:
        state = self._partitions.get(number)
        if state is None:
            state = self._partitions[number] = _Partition(number)
        return state

    def _check_sequence(self, state: _Partition, record: Accepted) -> None:
        self._findings.checked[Invariant.I2] += 1
        if record.sequence != state.next_sequence:
            what = f"sequence {record.sequence} where {state.next_sequence} was due"
            self._findings.violated(Invariant.I2, what, record.message_id)
        if record.sequence != UNREADABLE:
            state.next_sequence = record.sequence
        state.next_sequence += 1

    def _flush(self, state: _Partition) -> None:
        self._flush_submitted(state)
        self._flush_accepted(state)
        self._flush_outcomes(state)

    def _flush_submitted(self, state: _Partition) -> None:
        self._tables["submitted"].put(state.waiting_submitted)
        state.waiting_submitted = []
        state.waiting_events = 0

    def _flush_outcomes(self, state: _Partition) -> None:
        self._tables["outcomes"].put(state.waiting_outcomes)
        state.waiting_outcomes = []

    def _flush_accepted(self, state: _Partition) -> None:
        """Check the versions of the events that wait, and write them and their aggregates' new tails."""
        records, state.waiting_accepted = state.waiting_accepted, []
        aggregates = [aggregate_of(record.key) for record in records]
        logged = self._logged(state, aggregates)
        for record, aggregate in zip(records, aggregates, strict=True):
            version, published_at_ms = _bounded(record.version), _bounded(record.published_at_ms)
            logged[aggregate] = self._check_version(state, record, logged[aggregate])
            event_id = record.event_id or NO_ID
            outcome = Outcome(version, published_at_ms, state.events, OTHER_REASON, event_id, aggregate)
            state.events += 1
            self._outcome(state, ACCEPTED, record, outcome)
        self._tables["logged"].put((state.prefix + aggregate, last.to_bytes()) for aggregate, last in logged.items())
        self._flush_outcomes(state)

    def _logged(self, state: _Partition, aggregates: Iterable[bytes]) -> dict[bytes, Logged]:
        """The aggregates as events-n has them so far; new ones are given their home, if they have none."""
        wanted = list(set(aggregates))
        rows = self._tables["logged"].get([state.prefix + aggregate for aggregate in wanted])
        logged = {a: Logged.from_bytes(row) for a, row in zip(wanted, rows, strict=True) if row is not None}
        new = [aggregate for aggregate in wanted if aggregate not in logged]
        homes = self._tables["homes"].get(new)
        for aggregate, home in zip(new, homes, strict=True):
            number = state.number if home is None else int.from_bytes(home, "big")
            logged[aggregate] = Logged(NO_AGGREGATE, NO_POSITION, number)
        self._tables["homes"].put((a, state.prefix) for a, home in zip(new, homes, strict=True) if home is None)
        return logged

    def _check_version(self, state: _Partition, record: Accepted, last: Logged) -> Logged:
        findings = self._findings
        findings.checked[Invariant.I1] += 1
        if record.key is None:
            findings.violated(Invariant.I1, "an accepted event without a key", record.message_id)
        elif last.home != state.number:
            what = f"{record.key!r} has accepted events in partitions {last.home} and {state.number}"
            findings.violated(Invariant.I1, what, record.message_id)
        elif record.version != last.version + 1:
            what = f"version {record.version} of {record.key!r} where {last.version + 1} was due"
            before = [] if last.version == NO_AGGREGATE else [unpacked(last.position, state.number)]
            findings.violated(Invariant.I1, what, *before, record.message_id)
        return Logged(_bounded(record.version), packed(record.message_id), last.home)

    def _outcome(self, state: _Partition, kind: bytes, record: Accepted | Rejected, outcome: Outcome) -> None:
        """Note an outcome where its submission will meet it."""
        message_id = parse_message_id(record.submission)
        if message_id is None or message_id.partition != state.number:
            what = f"an outcome whose submission {record.submission!r} is no message of this partition"
            self._findings.violated(Invariant.I3, what, record.message_id)
            return
        submission = packed(message_id)
        state.answered = max(state.answered, after_entry(message_id))
        state.waiting_outcomes.append(
            (state.prefix + submission + kind + packed(record.message_id), outcome.to_bytes())
        )
        if record.forwarded_from is not None and (state.first is None or submission < state.first):
            # The copy itself is gone; its outcome, which kept the property, shows that there was one.
            self._copy(state.prefix + NO_POSITION, record.forwarded_from, record.key, record.message_id)

    def _copy(self, copy: bytes, forwarded_from: str, key: str | None, message_id: MessageId) -> None:
        original = parse_message_id(forwarded_from)
        if original is None or original.partition < 0:
            what = f"forwarded from {forwarded_from!r}, which is no message id"
            self._findings.violated(Invariant.I3, what, message_id)
            return
        row = partition_prefix(original.partition) + packed(original) + copy
        self._waiting_copies.append((row, aggregate_of(key)))
        if len(self._waiting_copies) >= FED_ROWS:
            self._flush_copies()

    def _flush_copies(self) -> None:
        self._tables["copies"].put(self._waiting_copies)
        self._waiting_copies = []

    def _logged_versions(self, partition: int) -> Iterator[tuple[bytes, int]]:
        self._flush_accepted(self._partition(partition))
        for key, value in self._tables["logged"].scan(partition_prefix(partition), partition_prefix(partition + 1)):
            yield key[4:], Logged.from_bytes(value).version

    def _last_event(self, partition: int, aggregate: bytes) -> list[MessageId]:
        row = self._tables["logged"].get([partition_prefix(partition) + aggregate])[0]
        return [] if row is None else [unpacked(Logged.from_bytes(row).position, partition)]


def _side_by_side(
    left: Iterator[tuple[bytes, int]], right: Iterator[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int, int]]:
    """Two sorted sequences of aggregates and versions as one; NO_AGGREGATE where one of them lacks it."""
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield a[0], a[1], NO_AGGREGATE
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            yield b[0], NO_AGGREGATE, b[1]
            b = next(right, None)
        else:
            yield a[0], a[1], b[1]
            a, b = next(left, None), next(right, None)


def _bounded(number: int) -> int:
    return number if -MAX_NUMBER <= number <= MAX_NUMBER or number == ABSENT else UNREADABLE
