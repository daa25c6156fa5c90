"""What an append or a subscription can end with, other than well. Pure.

SequencerError
+-- WrongExpectedVersion    the aggregate has moved on: reload, decide anew
+-- Rejected                any other reason that the sequencer gave
+-- OutcomeUnknown          no answer in time: it may be in, or not; the same ids settle it
+-- SequenceGap             events are missing, or come twice, in a partition
+-- Undecodable             the codec cannot read an event
"""

from __future__ import annotations

from collections.abc import Sequence

from sequencer import SequencerError


class WrongExpectedVersion(SequencerError):
    """The aggregate is not at the version that the append expected. Nothing was appended.

    Attributes:
        key: the aggregate.
        expected: the version that the append named.
        current: the aggregate's version when the append was judged; -1 where it did not exist.
    """

    def __init__(self, key: str, expected: int, current: int) -> None:
        super().__init__(f"{key}: version {expected} was expected, the aggregate is at {current}")
        self.key = key
        self.expected = expected
        self.current = current


class Rejected(SequencerError):
    """The append was rejected for another reason than its expected version. Nothing was appended.

    Attributes:
        key: the aggregate.
        reason: as in the contract, such as "conflicting_ids" or "too_large".
        detail: the same in words.
    """

    def __init__(self, key: str, reason: str, detail: str) -> None:
        super().__init__(f"{key}: {reason}{f': {detail}' if detail else ''}")
        self.key = key
        self.reason = reason
        self.detail = detail


class NotConnected(RuntimeError):
    """The event store was used before it was connected, or after it was closed."""


class OutcomeUnknown(SequencerError):
    """No answer came in time. The events may have been appended, may still be, or never will.

    Appending them again with the same ids, and the same expected version, settles it: where they are in, the answer is
    their versions.

    Attributes:
        key: the aggregate.
        ids: of the events, in order.
        attempts: how often this call has sent them. Where it is 0, and no call before has had the same ids, they were
            not appended and will not be.
    """

    def __init__(self, key: str, ids: Sequence[str], attempts: int, why: str) -> None:
        super().__init__(f"{key}: {why}; sent {attempts} times, ids {', '.join(ids)}")
        self.key = key
        self.ids = tuple(ids)
        self.attempts = attempts


class SequenceGap(SequencerError):
    """Events of a partition are missing, or come twice. A read model must not go on as if nothing had happened.

    Attributes:
        partition: of `events`.
        position: of the event that is out of sequence, `ledger:entry:partition:batch index`.
        expected: the sequence that had to come.
        found: the sequence that came.
    """

    def __init__(self, partition: int, position: str, expected: int, found: int) -> None:
        super().__init__(f"events, partition {partition}: at {position} came sequence {found} instead of {expected}")
        self.partition = partition
        self.position = position
        self.expected = expected
        self.found = found


class Undecodable(SequencerError):
    """The codec cannot read an event's data, or the entry that holds it is damaged; the cause says more.

    Attributes:
        partition: of `events`.
        position: of the event, `ledger:entry:partition:batch index`.
    """

    def __init__(self, partition: int, position: str, why: str) -> None:
        super().__init__(f"events, partition {partition}: the event at {position} cannot be decoded: {why}")
        self.partition = partition
        self.position = position
