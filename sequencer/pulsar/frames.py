"""Frames of Pulsar's binary protocol, and the values that travel in them.

All numbers are big-endian:

    simple:   u32 total | u32 command size | BaseCommand
    payload:  u32 total | u32 command size | BaseCommand | [u16 0x0e02 | u32 size | broker entry metadata] |
              [u16 0x0e01 | u32 crc32c] | u32 metadata size | MessageMetadata | payload

`total` counts everything after itself; the checksum covers everything after itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import google_crc32c
from google.protobuf.message import DecodeError

from sequencer.pulsar.errors import ProtocolViolation
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand, CommandMessage, MessageIdData, MessageMetadata

DEFAULT_MAX_MESSAGE_BYTES = 5 * 1024 * 1024
"""What a broker allows by default; CONNECTED may say otherwise."""

FRAME_PADDING_BYTES = 10 * 1024
"""What a frame may have on top of the largest message (the broker's own allowance for commands)."""

RECEIVE_CHUNK_BYTES = 512 * 1024
"""Size of the receive buffer while no larger frame is under way."""

MIN_READ_BYTES = 64 * 1024
"""Room that is made, at least, for the next read."""

MIN_FRAME_BYTES = 4
"""A frame holds at least the size of its command."""

CHECKSUM_MAGIC = 0x0E01
BROKER_ENTRY_MAGIC = 0x0E02

UINT64_MASK = 2**64 - 1
"""What a negative number becomes on the wire, where ids are unsigned: `number & UINT64_MASK`."""

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_TWO_U32 = struct.Struct(">II")
_MAGIC_CHECKSUM = struct.Struct(">HI")

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


def partition_index(topic: str) -> int:
    """The number of the partition that `topic` names, -1 where it names none."""
    _, found, number = topic.rpartition("-partition-")
    return int(number) if found and number.isascii() and number.isdigit() else -1


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
    data = MessageIdData(ledgerId=message_id.ledger & UINT64_MASK, entryId=message_id.entry & UINT64_MASK)
    if message_id.partition >= 0:
        data.partition = message_id.partition
    if message_id.batch_index >= 0:
        data.batch_index = message_id.batch_index
    return data


class Frame(NamedTuple):
    """One frame from the peer. `entry` is present for MESSAGE and for nothing else."""

    command: BaseCommand
    entry: Entry | None


def encode_command(command: BaseCommand) -> bytes:
    """The simple frame that carries `command`."""
    body = command.SerializeToString()
    return _TWO_U32.pack(len(body) + 4, len(body)) + body


def encode_payload_head(command: BaseCommand, metadata: bytes, payload: bytes) -> bytes:
    """Everything of a payload frame up to `payload`, which follows it on the wire as it is.

    The payload is not copied: the caller writes the two one after the other.
    """
    body = command.SerializeToString()
    sized = _U32.pack(len(metadata)) + metadata
    checksum = google_crc32c.extend(google_crc32c.value(sized), payload)
    total = 4 + len(body) + 6 + len(sized) + len(payload)
    return b"".join((_TWO_U32.pack(total, len(body)), body, _MAGIC_CHECKSUM.pack(CHECKSUM_MAGIC, checksum), sized))


class FrameDecoder:
    """Cuts a byte stream into frames, however it arrives.

    The peer's bytes are received straight into one buffer (`writable`, then `written`), and each payload is copied
    out of it once. The buffer grows to the frame that is being received, never beyond `max_frame_bytes`.
    """

    def __init__(self) -> None:
        self.max_frame_bytes = DEFAULT_MAX_MESSAGE_BYTES + FRAME_PADDING_BYTES
        self._buffer = bytearray(RECEIVE_CHUNK_BYTES)
        self._start = 0
        self._end = 0

    def writable(self) -> memoryview:
        """Where to put the next bytes; never empty. The view must not be kept beyond the next call."""
        pending = self._end - self._start
        needed = pending + 1
        if pending >= 4:
            needed = max(needed, 4 + min(_U32.unpack_from(self._buffer, self._start)[0], self.max_frame_bytes))
        if pending == 0 or self._start + needed > len(self._buffer) or len(self._buffer) - self._end < MIN_READ_BYTES:
            self._make_room(pending, max(needed, pending + MIN_READ_BYTES, RECEIVE_CHUNK_BYTES))
        return memoryview(self._buffer)[self._end :]

    def _make_room(self, pending: int, capacity: int) -> None:
        if self._start == 0 and capacity == len(self._buffer):
            return
        if capacity == len(self._buffer):
            self._buffer[:pending] = self._buffer[self._start : self._end]
        else:
            # A new buffer instead of a resize: views of the old one may still be alive.
            grown = bytearray(capacity)
            grown[:pending] = memoryview(self._buffer)[self._start : self._end]
            self._buffer = grown
        self._start, self._end = 0, pending

    def written(self, count: int) -> None:
        """Tell that `count` bytes were put at the start of the last `writable`."""
        self._end += count

    def frames(self) -> Iterator[Frame]:
        """The frames that are complete by now, in order.

        Raises:
            ProtocolViolation: the next frame's lengths or its command are broken; nothing after it can be read.
        """
        view = memoryview(self._buffer)
        while self._end - self._start >= 4:
            (total,) = _U32.unpack_from(view, self._start)
            if not MIN_FRAME_BYTES <= total <= self.max_frame_bytes:
                raise ProtocolViolation(f"a frame of {total} bytes, allowed are 4 to {self.max_frame_bytes}")
            frame_start = self._start + 4
            if self._end < frame_start + total:
                return
            self._start = frame_start + total
            yield _decode_frame(view[frame_start : self._start])


def _decode_frame(body: memoryview) -> Frame:
    (command_size,) = _U32.unpack_from(body)
    command_end = 4 + command_size
    if command_end > len(body):
        raise ProtocolViolation(f"a command of {command_size} bytes in a frame of {len(body)}")
    try:
        command = BaseCommand.FromString(bytes(body[4:command_end]))
    except DecodeError as broken:
        raise ProtocolViolation(f"a command that cannot be parsed: {broken}") from None
    if not command.IsInitialized():
        raise ProtocolViolation("a command that is unknown or lacks required fields")
    if command.type == BaseCommand.MESSAGE:
        return Frame(command, _decode_entry(command.message, body[command_end:]))
    if command_end != len(body):
        raise ProtocolViolation(f"{len(body) - command_end} bytes after a simple command")
    return Frame(command, None)


def _decode_entry(message: CommandMessage, content: memoryview) -> Entry:
    """The entry in a MESSAGE frame. Damage is told, not raised: one bad entry must not take the connection with it."""
    message_id = message_id_from_wire(message.message_id)
    try:
        metadata, payload = _open_content(content)
        damage = ""
    except _Damaged as found:
        metadata, payload, damage = MessageMetadata(), bytes(content), str(found)
    return Entry(message_id, metadata, payload, message.redelivery_count, tuple(message.ack_set), damage)


class _Damaged(Exception):
    pass


def _open_content(content: memoryview) -> tuple[MessageMetadata, bytes]:
    checksum, start, end = _layout(content)
    sized = bytes(content[start:end])
    payload = bytes(content[end:])
    if checksum is not None and google_crc32c.extend(google_crc32c.value(sized), payload) != checksum:
        raise _Damaged("the checksum does not match")
    try:
        metadata = MessageMetadata.FromString(sized[4:])
    except DecodeError:
        raise _Damaged("the metadata cannot be parsed") from None
    if not metadata.IsInitialized():
        raise _Damaged("the metadata lacks required fields")
    return metadata, payload


def _layout(content: memoryview) -> tuple[int | None, int, int]:
    """The checksum, where there is one, and where the metadata begins, with its size, and ends."""
    try:
        position = 0
        if _U16.unpack_from(content)[0] == BROKER_ENTRY_MAGIC:
            position = 6 + _U32.unpack_from(content, 2)[0]
        checksum: int | None = None
        if _U16.unpack_from(content, position)[0] == CHECKSUM_MAGIC:
            (checksum,) = _U32.unpack_from(content, position + 2)
            position += 6
        end = position + 4 + _U32.unpack_from(content, position)[0]
    except struct.error:
        raise _Damaged("the entry ends before its metadata") from None
    if end > len(content):
        raise _Damaged("the metadata is longer than the entry")
    return checksum, position, end


def messages_counted(entry: Entry) -> int:
    """How many messages the broker counts a delivery as: what its metadata claims, less what was acknowledged before.

    The broker takes that claim as it is: 0, below 0, or far beyond what the entry can hold. And it does not check
    checksums, so a damaged entry counts as what its metadata says, where that can be read.
    """
    if entry.ack_set:
        return sum((word & UINT64_MASK).bit_count() for word in entry.ack_set)
    if not entry.damage:
        return entry.metadata.num_messages_in_batch
    try:
        content = memoryview(entry.payload)
        _, start, end = _layout(content)
        return MessageMetadata.FromString(bytes(content[start + 4 : end])).num_messages_in_batch
    except (_Damaged, DecodeError):
        return 1
