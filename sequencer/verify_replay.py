"""Replays the submitted log of one partition against its outcomes: I3, I4, I6 and what rejections claim."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from sequencer.pulsar.frames import MessageId
from sequencer.verify_columns import ABSENT, NO_ROW, PartitionColumns
from sequencer.verify_report import Findings, Invariant

NO_AGGREGATE: Final = -1
OTHER_REASON, WRONG_EXPECTED_VERSION, DUPLICATE = range(3)


class Acknowledged(NamedTuple):
    """The subscription's state: all entries up to mark_delete, and those in ranges (first excluded, last included)."""

    mark_delete: MessageId
    ranges: Sequence[tuple[MessageId, MessageId]] = ()


class IdWindow(NamedTuple):
    """For how long the sequencer promises to recognise an accepted id: until either limit is passed."""

    ms: int = 15 * 60 * 1000
    events: int = 5_000_000  # half of what it holds at most: the older of its two generations is dropped whole


class _Acceptance(NamedTuple):
    """The latest time an event id was accepted for its aggregate."""

    row: int
    expected: int


class Replay:
    """One pass over a partition's submissions in log order."""

    def __init__(
        self,
        columns: PartitionColumns,
        forwarded: bytearray,
        acknowledged: Acknowledged | None,
        window: IdWindow,
        findings: Findings,
    ) -> None:
        self._columns = columns
        self._forwarded = forwarded
        self._acknowledged = acknowledged
        self._acknowledged_lasts = [last[:2] for _, last in acknowledged.ranges] if acknowledged else []
        self._window = window
        self._findings = findings
        self._tails: dict[int, int] = {}
        self._acceptances: dict[bytes, _Acceptance] = {}
        self._repeated: set[tuple[bytes, int]] = (
            set()
        )  # (id and aggregate, expected version) of ids accepted repeatedly
        self.pending = 0

    def run(self) -> None:
        """Check every submission; the findings are added to those given."""
        for key, event_id, row in self._columns.trimmed:
            self._tails[key] = max(self._tails.get(key, NO_AGGREGATE), self._columns.accepted.versions[row])
            self._acceptances[_acceptance_key(event_id, key)] = _Acceptance(row, ABSENT)
        submitted = self._columns.submitted
        for ordinal, message_id in enumerate(submitted.positions):
            self._outcome(ordinal, message_id)
            row = submitted.accepted_rows[ordinal]
            if row != NO_ROW:
                self._accepted(ordinal, row, message_id)
                continue
            row = submitted.rejected_rows[ordinal]
            if row != NO_ROW:
                self._rejected(ordinal, row, message_id)

    def _outcome(self, ordinal: int, message_id: MessageId) -> None:
        findings = self._findings
        findings.checked[Invariant.I3] += 1
        has_outcome = self._columns.submitted.has_outcome(ordinal)
        if self._forwarded[ordinal]:
            # A copy is no part of a transaction: its original is acknowledged some time after it, and again forwarded
            # if the sequencer dies in between. So nothing is said here about its acknowledgement.
            if has_outcome:
                findings.violated(Invariant.I3, "forwarded, and has an outcome of its own", message_id)
            return
        acknowledged = self._is_acknowledged(message_id)
        if not has_outcome and acknowledged is False:
            self.pending += 1
        elif not has_outcome:
            findings.violated(Invariant.I3, "no outcome", message_id)
        elif acknowledged is False:
            findings.violated(Invariant.I3, "has an outcome but is not acknowledged", message_id)

    def _is_acknowledged(self, message_id: MessageId) -> bool | None:
        """None where the subscription's state was not given."""
        if self._acknowledged is None:
            return None
        position = message_id[:2]
        if position <= self._acknowledged.mark_delete[:2]:
            return True
        at = bisect_left(self._acknowledged_lasts, position)
        return at < len(self._acknowledged_lasts) and self._acknowledged.ranges[at][0][:2] < position

    def _accepted(self, ordinal: int, row: int, message_id: MessageId) -> None:
        columns, findings = self._columns, self._findings
        key, expected = columns.submitted.keys[ordinal], columns.submitted.expected[ordinal]
        version = columns.accepted.versions[row]
        findings.checked[Invariant.I4] += 1
        if expected not in (ABSENT, version - 1):
            what = f"accepted as version {version} although it expected version {expected}"
            findings.violated(Invariant.I4, what, message_id, columns.accepted.positions[row])
        self._tails[key] = max(self._tails.get(key, NO_AGGREGATE), version)

        findings.checked[Invariant.I6] += 1
        acceptance_key = _acceptance_key(columns.submitted.event_id(ordinal), key)
        before = self._acceptances.get(acceptance_key)
        self._acceptances[acceptance_key] = _Acceptance(row, expected)
        if before is not None:
            self._accepted_again(acceptance_key, before, row, expected)

    def _accepted_again(self, acceptance_key: bytes, before: _Acceptance, row: int, expected: int) -> None:
        """An id that comes again is a new event if its expected version matches and is another; a retry otherwise."""
        accepted = self._columns.accepted
        self._repeated.add((acceptance_key, before.expected))
        if expected != ABSENT:
            wrong = (acceptance_key, expected) in self._repeated
        else:
            elapsed_ms = accepted.published_at_ms[row] - accepted.published_at_ms[before.row]
            wrong = elapsed_ms < self._window.ms and row - before.row < self._window.events
        self._repeated.add((acceptance_key, expected))
        if wrong:
            ids = accepted.positions[before.row], accepted.positions[row]
            self._findings.violated(Invariant.I6, "the same event was accepted twice", *ids)

    def _rejected(self, ordinal: int, row: int, message_id: MessageId) -> None:
        columns, findings = self._columns, self._findings
        key, expected = columns.submitted.keys[ordinal], columns.submitted.expected[ordinal]
        reason, claimed = columns.rejected.reasons[row], columns.rejected.versions[row]
        ids = message_id, columns.rejected.positions[row]
        if reason == WRONG_EXPECTED_VERSION:
            findings.checked[Invariant.I4] += 1
            tail = self._tails.get(key, NO_AGGREGATE)
            if claimed != tail:
                findings.violated(Invariant.I4, f"rejected at version {claimed}, but the version was {tail}", *ids)
            elif expected in (ABSENT, tail):
                what = "any version" if expected == ABSENT else f"version {expected}"
                findings.violated(Invariant.I4, f"rejected at version {tail} although it expected {what}", *ids)
        elif reason == DUPLICATE:
            findings.checked[Invariant.I6] += 1
            before = self._acceptances.get(_acceptance_key(columns.submitted.event_id(ordinal), key))
            if before is None or columns.accepted.versions[before.row] != claimed:
                what = f"rejected as a duplicate of version {claimed}, which is not the same event"
                findings.violated(Invariant.I6, what, *ids)


def _acceptance_key(event_id: bytes, key: int) -> bytes:
    return event_id + key.to_bytes(4, "big", signed=True)
