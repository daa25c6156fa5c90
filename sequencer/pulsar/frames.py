"""Frames of Pulsar's binary protocol, and the values that travel in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sequencer.pulsar.pulsar_api_pb2 import MessageIdData, MessageMetadata

_UINT64_MASK = 2**64 - 1
_INT64_SIGN = 2**63


class MessageId(NamedTuple):
    """Where a message is stored. Sorts by position; `ledger` and `entry` are signed here, unsigned on the wire."""

    ledger: int
    entry: int
    partition: int = -1
    batch_index: int = -1

    def __str__(self) -> str:
        return f"{self.ledger}:{self.entry}:{self.partition}:{self.batch_index}"


EARLIEST = MessageId(-1, -1)
LATEST = MessageId(2**63 - 1, 2**63 - 1)


class TxnId(NamedTuple):
    """A transaction: `most` is the number of its coordinator, `least` counts within it. (0, 0) is a valid id."""

    most: int
    least: int

    def __str__(self) -> str:
        return f"({self.most},{self.least})"


class Entry(NamedTuple):
    """One stored entry as it was delivered: a batch or a single message, its payload still compressed.

    `ack_set` is what the broker sent: 64-bit words, little-endian bit order, a set bit means not acknowledged; empty
    when nothing of a batch has been acknowledged. `damage` is "" or says what is wrong (a checksum that does not match,
    metadata that cannot be parsed); then `metadata` is empty and `payload` holds all bytes after the command.
    """

    message_id: MessageId
    metadata: MessageMetadata
    payload: bytes
    redelivery_count: int
    ack_set: Sequence[int]
    damage: str


def message_id_from_wire(data: MessageIdData) -> MessageId:
    """The id in `data`; 2^64-1 becomes -1."""
    ledger, entry = data.ledgerId, data.entryId
    if ledger >= _INT64_SIGN:
        ledger -= 2**64
    if entry >= _INT64_SIGN:
        entry -= 2**64
    return MessageId(ledger, entry, data.partition, data.batch_index)


def message_id_to_wire(message_id: MessageId) -> MessageIdData:
    """The wire form of `message_id`; -1 becomes 2^64-1."""
    data = MessageIdData(ledgerId=message_id.ledger & _UINT64_MASK, entryId=message_id.entry & _UINT64_MASK)
    if message_id.partition >= 0:
        data.partition = message_id.partition
    if message_id.batch_index >= 0:
        data.batch_index = message_id.batch_index
    return data
