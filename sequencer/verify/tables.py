"""Where the verifier keeps what it must remember: sorted tables of bytes, in memory here, on disk in spill.py.

Pure. Every row belongs to a partition, and its key begins with the partition's number. Message ids are packed so that
the order of their bytes is the order of the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from sequencer.pulsar.frames import MessageId

TABLES: Final = (
    "submitted",  # position -> Submission: what is not judged yet
    "open",  # the same, of what was judged but lacks its outcome or its acknowledgement
    "outcomes",  # submission's position, kind, own position -> Outcome: what is not judged yet
    "copies",  # original's position, target partition, copy's position -> aggregate: forwarded messages
    "logged",  # aggregate -> Logged: its last event in the order of events-n
    "judged",  # aggregate -> Judged: its last outcomes in the order of submission
    "homes",  # aggregate -> partition; the only one whose key has no partition in front
    "ids",  # aggregate and event id -> Acceptance: the last time it was accepted
    "repeated",  # aggregate, event id and expected version of ids that were accepted several times
    "index",  # aggregate -> version, as the index has it
)

UNREADABLE: Final = -(2**61)  # given for a number that is missing or is none: no check accepts it
ABSENT: Final = -(2**62)  # an expected version that was not given
ACCEPTED, REJECTED = b"\x00", b"\x01"
OTHER_REASON, WRONG_EXPECTED_VERSION, DUPLICATE, CONFLICTING_IDS = range(4)
EVENT_ID_BYTES: Final = 16
NO_ID: Final = bytes(EVENT_ID_BYTES)
POSITION_BYTES: Final = 20
NO_POSITION: Final = bytes(POSITION_BYTES)  # before every position
NO_COPY: Final = bytes(POSITION_BYTES + 4)
KEYLESS: Final = b"\x00"  # the aggregate of messages without a key; every other one begins with another byte

_POSITION = struct.Struct(">QQI")
_PARTITION = struct.Struct(">I")
_SUBMISSION = struct.Struct(">q?16sI")
_OUTCOME = struct.Struct(">qqqB16s")
_LOGGED = struct.Struct(">q20sI")
_JUDGED = struct.Struct(">q20s20s24s")
_ACCEPTANCE = struct.Struct(">qqqq20s")
_NUMBER = struct.Struct(">q")


class Table(Protocol):
    """Rows in the order of the bytes of their keys."""

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values, in the order of the keys; None = there is no such row."""

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Insert or replace."""

    def remove(self, keys: Iterable[bytes]) -> None:
        """Remove single rows."""

    def scan(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows from `first` up to, not including, `end`. Rows written meanwhile may or may not be among them."""

    def drop(self, first: bytes, end: bytes) -> None:
        """Remove all rows from `first` up to, not including, `end`."""


class MemoryTable:
    """A table for logs that fit in memory."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return [self._rows.get(key) for key in keys]

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._rows.update(rows)

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._rows.pop(key, None)

    def scan(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, value) for key, value in self._rows.items() if first <= key < end)

    def drop(self, first: bytes, end: bytes) -> None:
        self._rows = {key: value for key, value in self._rows.items() if not first <= key < end}


def memory_tables() -> dict[str, Table]:
    return {name: MemoryTable() for name in TABLES}


# --- keys ---


def partition_prefix(partition: int) -> bytes:
    return _PARTITION.pack(partition)


def packed(message_id: MessageId) -> bytes:
    """A position inside its partition; an entry (batch index -1) lies before all of its messages."""
    return _POSITION.pack(message_id.ledger, message_id.entry, message_id.batch_index + 1)


def unpacked(position: bytes, partition: int) -> MessageId:
    """The inverse of `packed`."""
    ledger, entry, batch_index = _POSITION.unpack(position)
    return MessageId(ledger, entry, partition, batch_index - 1)


def entry_of(position: bytes) -> bytes:
    """What the positions of one entry's messages have in common."""
    return position[:16]


def after_entry(message_id: MessageId) -> bytes:
    """The position after all messages of an entry."""
    return _POSITION.pack(message_id.ledger, message_id.entry + 1, 0)


def aggregate_of(key: str | None) -> bytes:
    """A key as the tables hold it. A key that is not UTF-8 comes with surrogate escapes."""
    return KEYLESS if key is None else b"\x01" + key.encode(errors="surrogateescape")


def key_of(aggregate: bytes) -> str:
    return aggregate[1:].decode(errors="surrogateescape")


# --- values ---


class Submission(NamedTuple):
    """A submitted message."""

    expected: int
    answered: bool  # its outcome was judged, only its acknowledgement was not seen yet
    event_id: bytes
    aggregate: bytes
    members: bytes = b""  # of a list the ids of its events, one after another; empty for a single event

    def to_bytes(self) -> bytes:
        row = _SUBMISSION.pack(self.expected, self.answered, self.event_id, len(self.members))
        return row + self.members + self.aggregate

    @classmethod
    def from_bytes(cls, data: bytes) -> Submission:
        expected, answered, event_id, length = _SUBMISSION.unpack_from(data)
        end = _SUBMISSION.size + length
        return cls(expected, answered, event_id, data[end:], data[_SUBMISSION.size : end])

    @property
    def events(self) -> int:
        """How many it becomes where it is accepted."""
        return len(self.members) // EVENT_ID_BYTES or 1

    @property
    def event_ids(self) -> Sequence[bytes]:
        """Those of its events, in order."""
        members = self.members
        return [members[at : at + EVENT_ID_BYTES] for at in range(0, len(members), EVENT_ID_BYTES)] or [self.event_id]


class Outcome(NamedTuple):
    """An accepted or a rejected event; the fields in the middle belong to one of them."""

    version: int  # accepted: the version assigned; rejected: the current or accepted version that the reason claims
    published_at_ms: int
    row: int  # accepted: how many events of the partition came before it
    reason: int
    event_id: bytes
    aggregate: bytes

    def to_bytes(self) -> bytes:
        return _OUTCOME.pack(*self[:5]) + self.aggregate

    @classmethod
    def from_bytes(cls, data: bytes) -> Outcome:
        version, published_at_ms, row, reason, event_id = _OUTCOME.unpack_from(data)
        return cls(version, published_at_ms, row, reason, event_id, data[_OUTCOME.size :])

    @property
    def expected(self) -> int:
        """Of a rejected event, which has no row."""
        return self.row


class Logged(NamedTuple):
    """An aggregate's last event in the order of events-n."""

    version: int
    position: bytes
    home: int  # the partition in which the aggregate was seen first

    def to_bytes(self) -> bytes:
        return _LOGGED.pack(*self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Logged:
        return cls(*_LOGGED.unpack(data))


class Judged(NamedTuple):
    """An aggregate in the order of submission: its tail, and where its last outcomes stand."""

    tail: int = -1
    accepted: bytes = NO_POSITION
    rejected: bytes = NO_POSITION
    copied: bytes = NO_COPY  # target partition and position of the last first copy that was forwarded from here

    def to_bytes(self) -> bytes:
        return _JUDGED.pack(*self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Judged:
        return cls(*_JUDGED.unpack(data))


class Acceptance(NamedTuple):
    """The latest time an event id was accepted for its aggregate."""

    version: int
    row: int
    published_at_ms: int
    expected: int
    position: bytes

    def to_bytes(self) -> bytes:
        return _ACCEPTANCE.pack(*self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Acceptance:
        return cls(*_ACCEPTANCE.unpack(data))


def number_to_bytes(number: int) -> bytes:
    return _NUMBER.pack(number)


def number_from_bytes(data: bytes) -> int:
    number: int = _NUMBER.unpack(data)[0]
    return number


Tables = Mapping[str, Table]
