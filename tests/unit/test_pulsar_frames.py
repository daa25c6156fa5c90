"""Framing: what is encoded is decoded again, and damage stays where it is."""

from __future__ import annotations

import struct

import google_crc32c
import pytest

from sequencer.pulsar import commands, frames
from sequencer.pulsar.errors import ProtocolViolation
from sequencer.pulsar.frames import (
    EARLIEST,
    LATEST,
    Entry,
    Frame,
    FrameDecoder,
    MessageId,
    TxnId,
    encode_command,
    encode_payload_head,
    message_id_from_wire,
    message_id_to_wire,
    partition_index,
)
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandMessage,
    CommandPing,
    CommandSuccess,
    MessageIdData,
    MessageMetadata,
)

PING = BaseCommand(type=BaseCommand.PING, ping=CommandPing()).SerializeToString()
METADATA = MessageMetadata(producer_name="p", sequence_id=7, publish_time=1, partition_key="k").SerializeToString()


def message_command(**fields: int) -> BaseCommand:
    message = CommandMessage(consumer_id=4, message_id=MessageIdData(ledgerId=3, entryId=9, partition=2), **fields)  # type: ignore[arg-type]
    return BaseCommand(type=BaseCommand.MESSAGE, message=message)


def message_frame(content: bytes, **fields: int) -> bytes:
    body = message_command(**fields).SerializeToString()
    return struct.pack(">II", 4 + len(body) + len(content), len(body)) + body + content


def checked(sized_and_payload: bytes) -> bytes:
    return struct.pack(">HI", 0x0E01, google_crc32c.value(sized_and_payload)) + sized_and_payload


def sized(metadata: bytes) -> bytes:
    return struct.pack(">I", len(metadata)) + metadata


def decode(data: bytes, decoder: FrameDecoder | None = None) -> list[Frame]:
    decoder = decoder or FrameDecoder()
    found: list[Frame] = []
    while data:
        room = decoder.writable()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        decoder.written(count)
        found += decoder.frames()
    return found


def only_entry(data: bytes) -> Entry:
    (frame,) = decode(data)
    assert frame.entry is not None
    return frame.entry


def test_a_simple_command_comes_back() -> None:
    command = BaseCommand(type=BaseCommand.SUCCESS, success=CommandSuccess(request_id=12))
    encoded = encode_command(command)
    assert struct.unpack_from(">II", encoded) == (len(encoded) - 4, len(encoded) - 8)
    assert decode(encoded * 3) == [Frame(command, None)] * 3


def test_a_payload_comes_back_with_its_metadata() -> None:
    head = encode_payload_head(message_command(redelivery_count=3), METADATA, b"payload")
    entry = only_entry(head + b"payload")
    assert entry.message_id == MessageId(3, 9, 2)
    assert entry.metadata.partition_key == "k"
    assert (entry.payload, entry.redelivery_count, entry.damage, entry.ack_set) == (b"payload", 3, "", ())


def test_a_send_frame_has_the_layout_of_the_protocol() -> None:
    command = commands.send(1, 7, 1, TxnId(0, 0))
    head = encode_payload_head(command, METADATA, b"abc")
    body = command.SerializeToString()
    assert head[:8] == struct.pack(">II", len(head) + 3 - 4, len(body))
    assert head[8 + len(body) :] + b"abc" == checked(sized(METADATA) + b"abc")
    assert command.send.HasField("txnid_most_bits")
    assert command.send.HasField("txnid_least_bits")


def test_checksum_and_broker_metadata_are_optional() -> None:
    plain = sized(METADATA) + b"xyz"
    for content in (plain, checked(plain), struct.pack(">HI", 0x0E02, 5) + b"12345" + checked(plain)):
        entry = only_entry(message_frame(content))
        assert (entry.damage, entry.payload, entry.metadata.sequence_id) == ("", b"xyz", 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends before"),
        (b"\x0e", "ends before"),
        (b"\x0e\x02\xff\xff\xff\xff", "ends before"),
        (b"\x0e\x01abcd", "ends before"),
        (struct.pack(">I", 1000) + METADATA, "longer than"),
        (checked(sized(METADATA) + b"x")[:-1] + b"y", "checksum"),
        (sized(b"\xff\xff\xff"), "cannot be parsed"),
        (sized(b""), "lacks required"),
    ],
)
def test_a_damaged_entry_is_told_and_the_next_one_is_whole(content: bytes, said: str) -> None:
    broken, whole = decode(message_frame(content) + message_frame(checked(sized(METADATA) + b"fine")))
    assert broken.entry is not None
    assert said in broken.entry.damage
    assert broken.entry.payload == content
    assert broken.entry.message_id == MessageId(3, 9, 2)
    assert broken.entry.metadata == MessageMetadata()
    assert whole.entry is not None
    assert whole.entry.payload == b"fine"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", frames.DEFAULT_MAX_MESSAGE_BYTES + frames.FRAME_PADDING_BYTES + 1),
        struct.pack(">II", 8, 5) + b"abcd",
        struct.pack(">II", 7, 3) + b"\xff\xff\xff",
        struct.pack(">II", 4, 0),
        struct.pack(">II", 8, 4) + b"\x08\x0d\x6a\x00",  # SUCCESS without its required request_id
        struct.pack(">II", 6, 2) + b"\x08\x7f",  # type 127
        struct.pack(">II", 10, 5) + PING + b"x",
    ],
    ids=["short", "huge", "over", "command size", "garbage", "empty", "no content", "unknown", "trailing"],
)
def test_a_broken_frame_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(data)


def test_frames_before_a_broken_one_are_delivered() -> None:
    command = BaseCommand(type=BaseCommand.SUCCESS, success=CommandSuccess(request_id=1))
    decoder = FrameDecoder()
    data = encode_command(command) + struct.pack(">I", 0)
    decoder.writable()[: len(data)] = data
    decoder.written(len(data))
    found = decoder.frames()
    assert next(found).command == command
    with pytest.raises(ProtocolViolation):
        next(found)


def test_the_buffer_grows_to_a_frame_and_shrinks_again() -> None:
    decoder = FrameDecoder()
    big = bytes(3 * 1024 * 1024)
    data = message_frame(checked(sized(METADATA) + big))
    (frame,) = decode(data, decoder)
    assert frame.entry is not None
    assert frame.entry.payload == big
    assert len(decoder.writable()) == frames.RECEIVE_CHUNK_BYTES


def test_a_length_alone_does_not_make_the_buffer_larger_than_a_frame() -> None:
    decoder = FrameDecoder()
    decoder.max_frame_bytes = 2 * 1024 * 1024
    with pytest.raises(ProtocolViolation):
        decode(struct.pack(">I", 2**31), decoder)
    assert len(decoder.writable()) <= 2 * 1024 * 1024 + 4


def test_payloads_do_not_share_the_receive_buffer() -> None:
    decoder = FrameDecoder()
    first = decode(message_frame(checked(sized(METADATA) + b"a" * 1000)), decoder)[0].entry
    decode(message_frame(checked(sized(METADATA) + b"b" * 1000)), decoder)
    assert first is not None
    assert first.payload == b"a" * 1000


def test_message_ids_print_and_sort_by_position() -> None:
    assert str(MessageId(5, 7, 0, 3)) == "5:7:0:3"
    assert sorted([LATEST, MessageId(5, 10), MessageId(5, 9), EARLIEST, MessageId(4, 99)]) == [
        EARLIEST,
        MessageId(4, 99),
        MessageId(5, 9),
        MessageId(5, 10),
        LATEST,
    ]


@pytest.mark.parametrize("message_id", [EARLIEST, LATEST, MessageId(0, 0), MessageId(1, 2, 3, 4)])
def test_message_ids_survive_the_wire(message_id: MessageId) -> None:
    wire = message_id_to_wire(message_id)
    assert message_id_from_wire(MessageIdData.FromString(wire.SerializeToString())) == message_id
    assert 0 <= wire.ledgerId < 2**64


@pytest.mark.parametrize(
    ("topic", "index"),
    [("persistent://a/b/c-partition-12", 12), ("persistent://a/b/c", -1), ("x-partition-", -1), ("x-partition-²", -1)],
)
def test_partition_index(topic: str, index: int) -> None:
    assert partition_index(topic) == index
