"""A peer that speaks the protocol and means no good: whatever it says, only PulsarErrors come of it, in bounded memory.

Commands with any content in every field, answers that nobody asked for, lengths that lie, and bytes that were changed
on their way, against a connection with everything on it: a producer, a consumer, a coordinator, and open requests.
"""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from typing import Any, cast

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequencer.pulsar import commands
from sequencer.pulsar.commands import AccessMode
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.consumer import Consumer
from sequencer.pulsar.coordinator import Coordinator
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.events import ProducerGrant
from sequencer.pulsar.frames import (
    DEFAULT_MAX_MESSAGE_BYTES,
    FRAME_PADDING_BYTES,
    MessageId,
    encode_command,
    encode_payload_head,
)
from sequencer.pulsar.producer import Producer
from sequencer.pulsar.protocol import FIELDS, MAX_MESSAGE_BYTES_LIMIT, MAX_PARTITIONS
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandConnected,
    CommandMessage,
    MessageIdData,
    MessageMetadata,
)
from sequencer.pulsar.settings import NO_AUTH, Address, ClientSettings
from tests.hostile import broken

LIMIT_BYTES = DEFAULT_MAX_MESSAGE_BYTES + FRAME_PADDING_BYTES
SLACK_BYTES = 2 * 1024 * 1024
TOPIC = "persistent://public/default/events-partition-0"

CONNECTED = encode_command(
    BaseCommand(type=BaseCommand.CONNECTED, connected=CommandConnected(server_version="x", protocol_version=21))
)

INTEGERS = st.integers(-1, 6) | st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32 - 1, 2**64 - 1])
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["pulsar://127.0.0.1:6650", "token", "none", "InvalidTxnStatus", "x" * 1000]
)


def fill(draw: st.DrawFn, message: Any, depth: int = 0) -> None:
    """Any value in any field; those that are required, mostly."""
    for field in message.DESCRIPTOR.fields:
        if draw(st.integers(0, 9)) < (1 if field.is_required else 4):
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 3:
                own = getattr(message, field.name)
                fill(draw, own.add() if field.is_repeated else own, depth + 1)
            continue
        value = draw(scalars(field))
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return TEXTS
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return st.sampled_from([value.number for value in field.enum_type.values])
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
    low, high = RANGES[field.cpp_type]
    return INTEGERS.filter(lambda number: low <= number <= high)


@st.composite
def any_command(draw: st.DrawFn) -> bytes:
    """Some command, with the content that its type calls for, mostly."""
    kind = draw(st.sampled_from(sorted(FIELDS)))
    command = BaseCommand(type=cast(Any, kind))
    if draw(st.integers(0, 9)):
        content = getattr(command, FIELDS[kind])
        content.SetInParent()
        fill(draw, content)
    return framed(command)


ASKED = {
    1: BaseCommand.PARTITIONED_METADATA_RESPONSE,
    2: BaseCommand.LOOKUP_RESPONSE,
    3: BaseCommand.PRODUCER_SUCCESS,
    4: BaseCommand.ACK_RESPONSE,
    5: BaseCommand.NEW_TXN_RESPONSE,
    6: BaseCommand.GET_LAST_MESSAGE_ID_RESPONSE,
}
"""The requests that `endure` has open, and what answers them."""


@st.composite
def any_answer(draw: st.DrawFn) -> bytes:
    """An answer to one of the open requests, of the right kind and with any content."""
    request_id, kind = draw(st.sampled_from(sorted(ASKED.items())))
    command = BaseCommand(type=cast(Any, kind))
    content = getattr(command, FIELDS[kind])
    fill(draw, content)
    content.request_id = request_id
    if draw(st.booleans()) and "error" in content.DESCRIPTOR.fields_by_name:
        content.ClearField("error")
    return framed(command)


def framed(command: BaseCommand) -> bytes:
    body = command.SerializePartialToString()
    return struct.pack(">II", len(body) + 4, len(body)) + body


@st.composite
def any_delivery(draw: st.DrawFn) -> bytes:
    """An entry for the consumer, of any content and with any metadata."""
    ids = MessageIdData(ledgerId=draw(st.integers(0, 3)), entryId=draw(st.integers(0, 2**64 - 1)))
    message = CommandMessage(consumer_id=draw(st.integers(0, 3)), message_id=ids)
    if draw(st.booleans()):
        message.ack_set.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
    metadata = MessageMetadata()
    fill(draw, metadata)
    payload = draw(st.binary(max_size=60))
    command = BaseCommand(type=BaseCommand.MESSAGE, message=message)
    return encode_payload_head(command, metadata.SerializePartialToString(), payload) + payload


lying = st.builds(
    lambda total, size, body: struct.pack(">II", total, size) + body,
    st.sampled_from([0, 3, 4, 5, LIMIT_BYTES, LIMIT_BYTES + 1, MAX_MESSAGE_BYTES_LIMIT, 2**31, 2**32 - 1]),
    st.sampled_from([0, 1, 4, 100, 2**31, 2**32 - 1]),
    st.binary(max_size=30),
)
"""Lengths of anything, with little behind them."""

streams = st.lists(
    any_answer() | any_command() | any_delivery() | broken(any_command() | any_answer() | any_delivery()) | lying,
    max_size=6,
).map(b"".join)


class Wire:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def writelines(self, data: list[bytes]) -> None:
        self.sent_bytes += sum(map(len, data))

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


def say(connection: Connection, data: bytes) -> None:
    """As the event loop gives it: in pieces of what there is room for."""
    left = memoryview(data)
    while left and not connection.lost.done():
        room = connection.get_buffer(-1)
        count = min(len(room), len(left))
        room[:count] = left[:count]
        left = left[count:]
        connection.buffer_updated(count)


async def endure(stream: bytes, before: bytes = CONNECTED) -> None:
    """Everything that a client can have under way, while `stream` comes in."""
    connection = Connection(Address("127.0.0.1", 6650, False), ClientSettings(), NO_AUTH, None)
    wire = Wire()
    connection.connection_made(cast(asyncio.Transport, wire))
    say(connection, before)
    under_way: list[asyncio.Future[Any]] = []
    if before:
        producer = Producer(connection, TOPIC, 1, ProducerGrant("p", 1, -1, True))
        consumer = Consumer(connection, TOPIC, 2)
        consumer.start()
        coordinator = Coordinator(connection, 0)
        under_way += [producer.send(b"", b"x", 1) for _ in range(3)]
        under_way += [
            connection.start(commands.partitioned_metadata(TOPIC), "1"),
            connection.start(commands.lookup(TOPIC, False), "2"),
            connection.start(commands.create_producer(TOPIC, 3, None, AccessMode.WAIT_FOR_EXCLUSIVE), "3"),
            consumer.ack([MessageId(1, 1)]),
            asyncio.ensure_future(coordinator.new_txn(ttl_ms=1)),
            asyncio.ensure_future(consumer.last_message_id()),
        ]
        await asyncio.sleep(0)
    say(connection, stream)
    await asyncio.sleep(0)
    if before and not connection.lost.done():
        under_way.append(producer.send(b"", b"x", 1))
        under_way.append(asyncio.ensure_future(consumer.take(max_messages=10, max_bytes=10)))
        await asyncio.sleep(0)
    connection.drop(PulsarError("over"))
    answers = await asyncio.gather(*under_way, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            assert isinstance(answer, PulsarError), repr(answer)
        if isinstance(answer, ProducerGrant):
            # What the next producer of that name would begin with.
            grown = Producer(connection, TOPIC, 3, answer)
            assert grown.name is not None
            MessageMetadata(sequence_id=answer.last_sequence_id + 1)
    assert isinstance(connection.lost.result(), PulsarError)
    assert wire.sent_bytes < SLACK_BYTES, "what one says must not grow with what one hears"


def run(stream: bytes, before: bytes = CONNECTED) -> None:
    problems: list[Any] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        await endure(stream, before)

    asyncio.run(story())
    assert problems == []


def granted(last_sequence_id: int) -> bytes:
    command = BaseCommand(type=BaseCommand.PRODUCER_SUCCESS)
    command.producer_success.request_id = 3
    command.producer_success.producer_name = "p"
    command.producer_success.last_sequence_id = last_sequence_id
    return framed(command)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(streams)
@example(granted(-2))
@example(granted(2**63 - 1))
def test_whatever_a_broker_says_only_pulsar_errors_come_of_it(stream: bytes) -> None:
    run(stream)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(streams)
def test_whatever_comes_instead_of_a_handshake(stream: bytes) -> None:
    run(stream, before=b"")


@pytest.mark.parametrize("total", [LIMIT_BYTES, LIMIT_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_alone_takes_no_more_memory_than_one_frame(total: int) -> None:
    tracemalloc.start()
    run(struct.pack(">II", total, 10) + bytes(100))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < LIMIT_BYTES + SLACK_BYTES


def test_more_partitions_than_anybody_has_break_the_protocol() -> None:
    """Whoever asked would make a list of them."""
    found: list[Any] = []

    async def ask(count: int) -> None:
        connection = Connection(Address("127.0.0.1", 6650, False), ClientSettings(), NO_AUTH, None)
        connection.connection_made(cast(asyncio.Transport, Wire()))
        say(connection, CONNECTED)
        answer = connection.start(commands.partitioned_metadata(TOPIC), "PARTITIONED_METADATA")
        command = BaseCommand(type=BaseCommand.PARTITIONED_METADATA_RESPONSE)
        command.partitionMetadataResponse.request_id = 1
        command.partitionMetadataResponse.partitions = count
        say(connection, encode_command(command))
        found.extend(await asyncio.gather(answer, return_exceptions=True))
        connection.drop(PulsarError("over"))

    asyncio.run(ask(MAX_PARTITIONS))
    asyncio.run(ask(MAX_PARTITIONS + 1))
    assert found[0].partitions == MAX_PARTITIONS
    assert isinstance(found[1], PulsarError)
