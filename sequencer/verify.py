"""Checks the sequencer's promises, the invariants I1 to I7, over what the topics really hold.

The caller reads each topic partition in log order and feeds every message as a small record: of each partition first
the submitted messages, then, in any interleaving, the accepted and the rejected events; for I5 and the second half of
I3 also the index's tails and the subscription's acknowledgements. `report()` then gives one line per invariant, and
for each violation the message ids that show it.

To judge a system that is running, fix where to stop before reading: first the ends of the outputs, then the end of the
input, so that every outcome's submission is among those read. Acknowledgements and index tails can only be judged once
the partition has settled (nothing is being sequenced).

How it works: a promise about one output's log (I1, I2, I7) is checked as it is fed. Everything that depends on the
order of the submissions (I3, I4, I6 and what a rejection claims) is checked by `report()`, which replays the submitted
log of each partition against its outcomes (verify_replay.py).

Memory: about 75 bytes for each event of a partition and 300 for each aggregate, and while a partition is replayed about
200 for each of its accepted events, freed before the next partition's: 330 MB at most for 1,000,000 events of 100,000
aggregates in one partition. To go beyond memory, spill by partition and by column: all columns (verify_columns.py) are
append-only arrays, which can be memory-mapped files as they are, and the dictionaries that remain (last version per
aggregate, last acceptance per event id) are keyed by the aggregate, so a partition can be fed and replayed in several
passes, each over the aggregates of one hash range.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sequencer.pulsar.frames import MessageId
from sequencer.verify_columns import ABSENT, NO_ID, NO_KEY, NO_ROW, PartitionColumns
from sequencer.verify_replay import (
    DUPLICATE,
    NO_AGGREGATE,
    OTHER_REASON,
    WRONG_EXPECTED_VERSION,
    Acknowledged,
    IdWindow,
    Replay,
)
from sequencer.verify_report import Findings, Invariant, Line, Report, Violation

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

UNREADABLE: Final = -(2**61)  # given for a number that is missing or is none: no check accepts it
DEFAULT_WINDOW: Final = IdWindow()
_REASONS: Final = {"wrong_expected_version": WRONG_EXPECTED_VERSION, "duplicate": DUPLICATE}


class Submitted(NamedTuple):
    """One message of submitted_events."""

    message_id: MessageId
    key: str | None
    event_id: bytes | None  # 16 bytes; None where it has none or it cannot be read
    expected_version: int | None  # None = absent: accept at any version
    forwarded_from: str | None = None  # the property of that name: the message id of the original


class Accepted(NamedTuple):
    """One message of events; a property that is missing or malformed is given as None or UNREADABLE."""

    message_id: MessageId
    key: str | None
    event_id: bytes | None
    version: int
    sequence: int
    submission: str  # "ledger:entry:partition:batch"
    published_at_ms: int


class Rejected(NamedTuple):
    """One message of rejected_events; None = the property is absent."""

    message_id: MessageId
    key: str | None
    reason: str
    submission: str
    event_id: bytes | None = None
    expected_version: int | None = None
    current_version: int | None = None
    accepted_version: int | None = None


class _Last(NamedTuple):
    """An aggregate's latest outcome in one output."""

    row: int
    submission: int  # ordinal, NO_ROW where it is not known


class _Partition:
    """One partition while it is fed."""

    def __init__(self, number: int) -> None:
        self.columns = PartitionColumns(number)
        self.next_sequence = 0
        self.last_accepted: dict[int, _Last] = {}
        self.last_rejected: dict[int, _Last] = {}
        self.acknowledged: Acknowledged | None = None


class Verifier:
    """Takes the records of all partitions of one namespace and judges them."""

    def __init__(self, window: IdWindow = DEFAULT_WINDOW) -> None:
        self._window = window
        self._partitions: dict[int, _Partition] = {}
        self._keys: dict[str, int] = {}
        self._homes: dict[int, int] = {}  # aggregate -> the partition that its first accepted event is in
        self._findings = Findings()
        self._before_retention = 0

    def submitted(self, partition: int, record: Submitted) -> None:
        """The next message of submitted_events-n; to be fed before the partition's outcomes."""
        columns = self._partition(partition).columns
        expected = ABSENT if record.expected_version is None else record.expected_version
        key = self._key_number(record.key)
        ordinal = columns.submitted.append(record.message_id, key, expected, record.event_id or NO_ID)
        if record.forwarded_from is not None:
            original = parse_message_id(record.forwarded_from)
            if original is None:
                what = f"forwarded from {record.forwarded_from!r}, which is no message id"
                self._findings.violated(Invariant.I3, what, record.message_id)
            else:
                columns.copies.append((ordinal, original))

    def accepted(self, partition: int, record: Accepted) -> None:
        """The next message of events-n."""
        state = self._partition(partition)
        key = self._key_number(record.key)
        row = state.columns.accepted.append(record.message_id, record.version, record.published_at_ms)
        self._check_sequence(state, record)
        self._check_version(state, key, record)
        ordinals = self._submissions_of(state, record.submission, record.message_id, whole_entry=False)
        ordinal = NO_ROW
        if ordinals:
            submitted, ordinal = state.columns.submitted, ordinals[0]
            submitted.accepted_rows[ordinal] = row
            same = submitted.keys[ordinal] == key and submitted.event_id(ordinal) == record.event_id
            self._check_description(same, submitted.positions[ordinal], record.message_id)
        elif ordinals is not None:
            state.columns.trimmed.append((key, record.event_id or NO_ID, row))
        self._check_order(state.last_accepted, key, _Last(row, ordinal), record.message_id)

    def rejected(self, partition: int, record: Rejected) -> None:
        """The next message of rejected_events-n."""
        state = self._partition(partition)
        columns = state.columns
        reason = _REASONS.get(record.reason, OTHER_REASON)
        claimed = record.accepted_version if reason == DUPLICATE else record.current_version
        row = columns.rejected.append(record.message_id, reason, UNREADABLE if claimed is None else claimed)
        ordinals = self._submissions_of(state, record.submission, record.message_id, whole_entry=True)
        for ordinal in ordinals or ():
            columns.submitted.rejected_rows[ordinal] = row
        if not ordinals or len(ordinals) > 1:
            return
        ordinal = ordinals[0]
        key = self._key_number(record.key)
        # What is far too large is rejected without anything of its own.
        same = columns.submitted.keys[ordinal] == key or (key == NO_KEY and reason == OTHER_REASON)
        if reason != OTHER_REASON:
            expected = ABSENT if record.expected_version is None else record.expected_version
            same = same and columns.submitted.expected[ordinal] == expected
            same = same and columns.submitted.event_id(ordinal) == record.event_id
        self._check_description(same, columns.submitted.positions[ordinal], record.message_id)
        self._check_order(state.last_rejected, key, _Last(row, ordinal), record.message_id)

    def acknowledged(self, partition: int, state: Acknowledged) -> None:
        """What the subscription on submitted_events-n has acknowledged, once the partition has settled."""
        self._partition(partition).acknowledged = state

    def tails(self, partition: int) -> Iterator[tuple[str, int]]:
        """The partition's aggregates and their last versions, as events-n has them."""
        state = self._partition(partition)
        for key, number in self._keys.items():
            last = state.last_accepted.get(number)
            if last is not None:
                yield key, state.columns.accepted.versions[last.row]

    def index_tails(self, partition: int, tails: Iterable[tuple[str, int]]) -> None:
        """What the index holds for the aggregates that `tails` gives, -1 = nothing; after all events were fed."""
        state = self._partition(partition)
        accepted = state.columns.accepted
        for key, tail in tails:
            self._findings.checked[Invariant.I5] += 1
            last = state.last_accepted.get(self._keys.get(key, NO_KEY))
            version = NO_AGGREGATE if last is None else accepted.versions[last.row]
            if tail != version:
                what = f"the index has version {tail} of {key!r}, its last event is version {version}"
                self._findings.violated(Invariant.I5, what, *([] if last is None else [accepted.positions[last.row]]))

    def report(self) -> Report:
        """The judgement over everything fed so far; more may be fed, and another report taken."""
        findings = self._findings.copy()
        forwarded = {n: bytearray(len(state.columns.submitted.positions)) for n, state in self._partitions.items()}
        for _, state in sorted(self._partitions.items()):
            self._check_copies(state.columns, forwarded, findings)
        pending = 0
        for number, state in sorted(self._partitions.items()):
            replay = Replay(state.columns, forwarded[number], state.acknowledged, self._window, findings)
            replay.run()
            pending += replay.pending
        return Report(findings.lines(), pending, self._before_retention)

    def _partition(self, number: int) -> _Partition:
        state = self._partitions.get(number)
        if state is None:
            state = self._partitions[number] = _Partition(number)
        return state

    def _key_number(self, key: str | None) -> int:
        return NO_KEY if key is None else self._keys.setdefault(key, len(self._keys))

    def _check_sequence(self, state: _Partition, record: Accepted) -> None:
        self._findings.checked[Invariant.I2] += 1
        if record.sequence != state.next_sequence:
            what = f"sequence {record.sequence} where {state.next_sequence} was due"
            self._findings.violated(Invariant.I2, what, record.message_id)
        if record.sequence != UNREADABLE:
            state.next_sequence = record.sequence
        state.next_sequence += 1

    def _check_version(self, state: _Partition, key: int, record: Accepted) -> None:
        findings = self._findings
        findings.checked[Invariant.I1] += 1
        partition = state.columns.number
        home = self._homes.setdefault(key, partition)
        last = state.last_accepted.get(key)
        version = NO_AGGREGATE if last is None else state.columns.accepted.versions[last.row]
        if key == NO_KEY:
            findings.violated(Invariant.I1, "an accepted event without a key", record.message_id)
        elif home != partition:
            what = f"{record.key!r} has accepted events in partitions {home} and {partition}"
            findings.violated(Invariant.I1, what, record.message_id)
        elif record.version != version + 1:
            what = f"version {record.version} of {record.key!r} where {version + 1} was due"
            ids = (
                [record.message_id] if last is None else [state.columns.accepted.positions[last.row], record.message_id]
            )
            findings.violated(Invariant.I1, what, *ids)

    def _submissions_of(
        self, state: _Partition, submission: str, outcome: MessageId, *, whole_entry: bool
    ) -> range | None:
        """The ordinals of an outcome's submission: none where it was trimmed, None where there cannot be one.

        A batch that cannot be opened is rejected as one, under its entry's id without batch index (`whole_entry`).
        """
        columns = state.columns.submitted
        message_id = parse_message_id(submission)
        if message_id is None or message_id.partition != state.columns.number:
            what = f"an outcome whose submission {submission!r} is no message of this partition"
            self._findings.violated(Invariant.I3, what, outcome)
            return None
        if columns.positions.starts_after(message_id):
            self._before_retention += 1
            return range(0)
        if whole_entry and message_id.batch_index == -1:
            ordinals = columns.positions.entry(message_id)
        else:
            ordinal = columns.positions.find(message_id)
            ordinals = range(0) if ordinal is None else range(ordinal, ordinal + 1)
        if not ordinals:
            self._findings.violated(Invariant.I3, "an outcome of nothing that was submitted", message_id, outcome)
        elif any(columns.has_outcome(ordinal) for ordinal in ordinals):
            self._findings.violated(Invariant.I3, "a second outcome", message_id, outcome)
        else:
            return ordinals
        return None

    def _check_description(self, same: bool, submission: MessageId, outcome: MessageId) -> None:
        if not same:
            what = "the outcome's key, id or expected version is not its submission's"
            self._findings.violated(Invariant.I3, what, submission, outcome)

    def _check_order(self, lasts: dict[int, _Last], key: int, now: _Last, outcome: MessageId) -> None:
        self._findings.checked[Invariant.I7] += 1
        last = lasts.get(key)
        lasts[key] = now
        # Messages without a key belong to no aggregate.
        if key != NO_KEY and last is not None and NO_ROW < now.submission < last.submission:
            self._findings.violated(Invariant.I7, "an outcome before that of an earlier submission", outcome)

    def _check_copies(self, columns: PartitionColumns, forwarded: dict[int, bytearray], findings: Findings) -> None:
        """Mark the originals of forwarded copies; the first copies of an aggregate keep the originals' order.

        Later copies of the same original come from a crash between sending one and acknowledging its original.
        """
        last_originals: dict[tuple[int, int], int] = {}
        for ordinal, original in columns.copies:
            copy = columns.submitted.positions[ordinal]
            source = self._partitions.get(original.partition)
            if source is None or source.columns.submitted.positions.starts_after(original):
                continue
            at = source.columns.submitted.positions.find(original)
            key = columns.submitted.keys[ordinal]
            if at is None:
                findings.violated(Invariant.I3, "forwarded from nothing that was submitted", original, copy)
                continue
            if source.columns.submitted.keys[at] != key:
                findings.violated(Invariant.I3, "a forwarded copy with another key than its original's", original, copy)
            findings.checked[Invariant.I7] += 1
            if forwarded[original.partition][at]:
                continue
            forwarded[original.partition][at] = 1
            route = (key, original.partition)
            if at < last_originals.get(route, NO_ROW):
                findings.violated(Invariant.I7, "forwarded before an earlier submission", original, copy)
            last_originals[route] = at


def parse_message_id(text: str) -> MessageId | None:
    """The inverse of str(MessageId); None where the text is nothing of the kind."""
    try:
        ledger, entry, partition, batch_index = (int(part) for part in text.split(":"))
    except ValueError:
        return None
    if ledger < 0 or entry < 0 or batch_index < -1:
        return None
    return MessageId(ledger, entry, partition, batch_index)
