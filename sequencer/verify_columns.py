"""Compact columns for the verifier: what it must remember of each message of one partition, in log order.

A message id is kept as 8 bytes (the ledger changes rarely, so each ledger's entries are one sorted array), a submission
as about 50 bytes in all, an accepted event as 24, a rejected one as 17. Everything is append-only, and read in order or
by binary search.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from sequencer.pulsar.frames import MessageId

BATCH_INDEX_BITS: Final = 24  # a batch never holds 16 million messages: its frame is limited to a few MiB
EVENT_ID_BYTES: Final = 16
NO_ID: Final = bytes(EVENT_ID_BYTES)
NO_KEY: Final = -1
NO_ROW: Final = -1
ABSENT: Final = -(2**62)  # a version that was not given


class Positions:
    """The message ids of one topic partition in log order: ordinal <-> message id."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._ledgers: list[int] = []
        self._first_ordinals: list[int] = []
        self._entries: list[array[int]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, message_id: MessageId) -> int:
        """Add the next id of the log and return its ordinal."""
        packed = _pack(message_id)
        if not self._ledgers or message_id.ledger != self._ledgers[-1]:
            assert not self._ledgers or message_id.ledger > self._ledgers[-1], f"{message_id} is out of log order"
            self._ledgers.append(message_id.ledger)
            self._first_ordinals.append(self._count)
            self._entries.append(array("Q"))
        entries = self._entries[-1]
        assert not entries or packed > entries[-1], f"{message_id} is out of log order"
        entries.append(packed)
        self._count += 1
        return self._count - 1

    def find(self, message_id: MessageId) -> int | None:
        """The ordinal of a message id, None where the log does not have it."""
        ordinal = self._lower_bound(message_id)
        return ordinal if ordinal < self._count and self[ordinal] == message_id else None

    def entry(self, message_id: MessageId) -> range:
        """The ordinals of all messages of one stored entry, whatever the batch index given."""
        first = self._lower_bound(message_id._replace(batch_index=-1))
        last = self._lower_bound(message_id._replace(entry=message_id.entry + 1, batch_index=-1))
        return range(first, last)

    def starts_after(self, message_id: MessageId) -> bool:
        """The log's first message lies after this position, or there is none."""
        return not self._count or message_id < self[0]

    def __getitem__(self, ordinal: int) -> MessageId:
        at = bisect_right(self._first_ordinals, ordinal) - 1
        return self._unpack(self._ledgers[at], self._entries[at][ordinal - self._first_ordinals[at]])

    def __iter__(self) -> Iterator[MessageId]:
        for ledger, entries in zip(self._ledgers, self._entries, strict=True):
            for packed in entries:
                yield self._unpack(ledger, packed)

    def _lower_bound(self, message_id: MessageId) -> int:
        """The ordinal of the first message at or after a position."""
        at = bisect_left(self._ledgers, message_id.ledger)
        if at == len(self._ledgers):
            return self._count
        if self._ledgers[at] != message_id.ledger:
            return self._first_ordinals[at]
        return self._first_ordinals[at] + bisect_left(self._entries[at], _pack(message_id))

    def _unpack(self, ledger: int, packed: int) -> MessageId:
        batch_index = (packed & ((1 << BATCH_INDEX_BITS) - 1)) - 1
        return MessageId(ledger, packed >> BATCH_INDEX_BITS, self._partition, batch_index)


class SubmittedColumns:
    """The submitted messages of one partition; a row's number is its ordinal in the log."""

    def __init__(self, partition: int) -> None:
        self.positions = Positions(partition)
        self.keys = array("i")
        self.expected = array("q")
        self.event_ids = bytearray()
        self.accepted_rows = array("q")
        self.rejected_rows = array("q")

    def append(self, message_id: MessageId, key: int, expected: int, event_id: bytes) -> int:
        """Add the next submitted message, without an outcome yet, and return its ordinal."""
        self.keys.append(key)
        self.expected.append(expected)
        self.event_ids += event_id
        self.accepted_rows.append(NO_ROW)
        self.rejected_rows.append(NO_ROW)
        return self.positions.append(message_id)

    def has_outcome(self, ordinal: int) -> bool:
        """An accepted or a rejected event was found for this submission."""
        return self.accepted_rows[ordinal] != NO_ROW or self.rejected_rows[ordinal] != NO_ROW

    def event_id(self, ordinal: int) -> bytes:
        """The 16 bytes of the event's id, NO_ID where it has none."""
        return bytes(self.event_ids[ordinal * EVENT_ID_BYTES : (ordinal + 1) * EVENT_ID_BYTES])


class AcceptedColumns:
    """The accepted events of one partition; a row's number is its ordinal in the log."""

    def __init__(self, partition: int) -> None:
        self.positions = Positions(partition)
        self.versions = array("q")
        self.published_at_ms = array("q")

    def append(self, message_id: MessageId, version: int, published_at_ms: int) -> int:
        """Add the next accepted event and return its row."""
        self.versions.append(version)
        self.published_at_ms.append(published_at_ms)
        return self.positions.append(message_id)


class RejectedColumns:
    """The rejected events of one partition; a row's number is its ordinal in the log."""

    def __init__(self, partition: int) -> None:
        self.positions = Positions(partition)
        self.reasons = bytearray()  # numbers of verify_replay.py
        self.versions = array("q")  # the current or accepted version that the reason claims

    def append(self, message_id: MessageId, reason: int, version: int) -> int:
        """Add the next rejected event and return its row."""
        self.reasons.append(reason)
        self.versions.append(version)
        return self.positions.append(message_id)


class PartitionColumns:
    """All that is remembered of one partition."""

    def __init__(self, partition: int) -> None:
        self.number = partition
        self.submitted = SubmittedColumns(partition)
        self.accepted = AcceptedColumns(partition)
        self.rejected = RejectedColumns(partition)
        self.copies: list[tuple[int, MessageId]] = []  # forwarded to here: (ordinal of the copy, its original)
        self.trimmed: list[tuple[int, bytes, int]] = []  # accepted before retention: (key, event id, row)


def _pack(message_id: MessageId) -> int:
    return message_id.entry << BATCH_INDEX_BITS | (message_id.batch_index + 1)
