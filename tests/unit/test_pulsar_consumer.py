"""Flow control: what a consumer allows the broker to deliver, and what it holds at most."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from sequencer.pulsar import consumer as consumer_module
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.consumer import MAX_PERMITS, MIN_PERMITS, RECEIVE_BUFFER_BYTES, Consumer
from sequencer.pulsar.errors import ConnectionLost, ProtocolViolation, PulsarError
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand, CompressionType, MessageMetadata

MIB = 1 << 20


class Broker:
    """Counts permits as a broker does, and delivers only what they allow."""

    def __init__(self) -> None:
        self.permits = 0
        self.flows = 0
        self.epoch = 0
        self.delivered = 0
        self.dropped: PulsarError | None = None
        self.consumer = Consumer(cast(Connection, self), "topic", 7)

    def attach_consumer(self, consumer_id: int, port: Consumer) -> None:
        assert consumer_id == 7

    def detach_consumer(self, consumer_id: int) -> None:
        assert consumer_id == 7

    def drop(self, reason: PulsarError) -> None:
        self.dropped = reason

    def tell(self, command: BaseCommand) -> None:
        if command.type == BaseCommand.FLOW:
            assert 0 < command.flow.messagePermits < 2**31, "it would close the connection"
            self.permits = int32(self.permits + command.flow.messagePermits)
            self.flows += 1
        else:
            assert command.type == BaseCommand.REDELIVER_UNACKNOWLEDGED_MESSAGES
            self.epoch = command.redeliverUnacknowledgedMessages.consumer_epoch

    async def drain(self) -> None:
        """Nothing is ever unsent."""

    def deliver(self, payload: bytes = b"", messages: int = 1, ack_set: tuple[int, ...] = (), epoch: int = 0) -> None:
        metadata = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1, num_messages_in_batch=messages)
        message_id = MessageId(1, self.delivered)
        self.delivered += 1
        counted = sum((word & (2**64 - 1)).bit_count() for word in ack_set) if ack_set else messages
        self.permits = int32(self.permits - counted)
        self.consumer.on_entry(Entry(message_id, metadata, payload, 0, ack_set, ""), epoch)

    async def take_all(self) -> list[Entry]:
        return await self.consumer.take(max_messages=1_000_000, max_bytes=1 << 40)


def int32(number: int) -> int:
    return ctypes.c_int32(number).value


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await story

    asyncio.run(limited())


def test_nothing_is_allowed_before_it_is_wanted() -> None:
    async def story() -> None:
        broker = Broker()
        assert broker.permits == 0
        broker.consumer.start()
        broker.consumer.start()
        assert broker.permits == MIN_PERMITS

    run(story())


def test_large_messages_stay_within_the_buffer() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for _ in range(3):
            held = 0
            while broker.permits > 0:
                broker.deliver(bytes(MIB))
                held += MIB
            assert 0.5 * RECEIVE_BUFFER_BYTES <= held <= RECEIVE_BUFFER_BYTES
            await broker.take_all()
            assert broker.permits > 0

    run(story())


def test_a_message_larger_than_the_buffer_is_allowed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RECEIVE_BUFFER_BYTES", MIB)

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        while broker.permits > 0:
            broker.deliver(bytes(2 * MIB))
        for _ in range(3):
            await broker.take_all()
            assert broker.permits == 1
            broker.deliver(bytes(2 * MIB))

    run(story())


def test_small_messages_get_many_permits_in_few_flows() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for _ in range(10_000):
            broker.deliver(b"small")
            await broker.take_all()
            assert 0 < broker.permits <= MAX_PERMITS
        assert broker.flows < 10_000 / MAX_PERMITS * 4

    run(story())


def test_empty_messages_are_bounded_too() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        while broker.permits > 0:
            broker.deliver()
        assert broker.delivered < 2 * RECEIVE_BUFFER_BYTES / consumer_module.ENTRY_OVERHEAD_BYTES

    run(story())


def test_a_jump_in_size_takes_effect_at_once() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for _ in range(5000):
            broker.deliver(b"small")
            await broker.take_all()
        flows = broker.flows
        for _ in range(100):
            broker.deliver(bytes(MIB))
        assert broker.flows == flows
        await broker.take_all()
        for _ in range(500):
            broker.deliver(bytes(MIB))
            await broker.take_all()
        assert broker.permits <= RECEIVE_BUFFER_BYTES / MIB

    run(story())


def test_permits_agree_with_the_brokers_count() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        # A broker sends whole entries: one permit is enough for a batch of any size.
        for messages, ack_set in ((5000, ()), (1, ()), (64, (-1,)), (64, (0b1011,)), (128, (0, 1))):
            broker.deliver(b"batch", messages, ack_set)
            assert broker.permits == broker.consumer._permits
            await broker.take_all()
            assert 0 < broker.permits == broker.consumer._permits

    run(story())


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    "claims", [[LARGEST], [LARGEST, LARGEST], [LARGEST] * 3, [0], [-1], [-(2**31)], [-(2**31), LARGEST, 5, -7, 0]]
)
@pytest.mark.parametrize("taken_at_once", [True, False])
def test_a_batch_that_lies_about_its_messages_does_not_stop_delivery(claims: list[int], taken_at_once: bool) -> None:
    """A broker believes what it is told, and counts in 32 bits. The next batches are small ones again."""

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for claim in claims:
            broker.deliver(b"x", claim)
            assert broker.permits == broker.consumer._permits
            if taken_at_once:
                await broker.take_all()
        if not taken_at_once:
            await broker.take_all()
        for _ in range(2 * MAX_PERMITS):
            assert broker.permits > 0, "it would never deliver anything more"
            broker.deliver(b"x")
            await broker.take_all()
            assert broker.permits == broker.consumer._permits

    run(story())


def test_a_damaged_entry_counts_as_what_its_metadata_claims() -> None:
    """The broker does not look at checksums."""
    metadata = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1, num_messages_in_batch=5000)
    serialized = metadata.SerializeToString()
    content = b"\x0e\x01\0\0\0\0" + len(serialized).to_bytes(4, "big") + serialized + b"payload"

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for damaged, counted in ((content, 5000), (content[:9], 1), (b"", 1)):
            broker.permits -= counted
            entry = Entry(MessageId(1, 1), MessageMetadata(), damaged, 0, (), "the checksum does not match")
            broker.consumer.on_entry(entry, 0)
            await broker.take_all()
            assert 0 < broker.permits == broker.consumer._permits

    run(story())


def test_whoever_delivers_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RECEIVE_LIMIT_BYTES", MIB)

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        while broker.dropped is None:
            broker.deliver(b"x" * 1000)
            assert broker.delivered < 2000
        assert isinstance(broker.dropped, ProtocolViolation)

    run(story())


def test_what_was_under_way_before_a_redelivery_is_dropped() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        broker.deliver(b"first")
        await broker.consumer.redeliver()
        broker.deliver(b"late", epoch=broker.epoch - 1)
        broker.deliver(b"first again", epoch=broker.epoch)
        assert [entry.payload for entry in await broker.take_all()] == [b"first again"]
        assert broker.permits == broker.consumer._permits

    run(story())


def test_take_stops_at_its_limits_but_gives_at_least_one() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for size in (10, 20, 30, 40):
            broker.deliver(bytes(size), messages=2)

        async def taken(max_messages: int, max_bytes: int) -> list[int]:
            entries = await broker.consumer.take(max_messages=max_messages, max_bytes=max_bytes)
            return [len(entry.payload) for entry in entries]

        assert await taken(1, 1) == [10]
        assert await taken(4, 1000) == [20, 30]
        assert await taken(100, 39) == [40]

    run(story())


def test_a_taker_waits_for_the_first_entry_and_can_give_up() -> None:
    async def story() -> None:
        broker = Broker()
        taking = asyncio.create_task(broker.take_all())
        await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        taking = asyncio.create_task(broker.take_all())
        await asyncio.sleep(0)
        assert not taking.done()
        broker.deliver(b"x")
        assert len(await taking) == 1

    run(story())


def test_the_end_of_a_consumer_wakes_its_taker() -> None:
    async def story() -> None:
        broker = Broker()
        taking = asyncio.create_task(broker.take_all())
        await asyncio.sleep(0)
        reason = ConnectionLost("cut")
        broker.consumer.on_closed(reason)
        with pytest.raises(ConnectionLost):
            await taking
        with pytest.raises(ConnectionLost):
            await broker.take_all()
        with pytest.raises(ConnectionLost):
            await broker.consumer.redeliver()
        assert broker.consumer.lost.result() is reason

    run(story())


@pytest.mark.parametrize(("messages", "content_bytes"), [(3, 1 << 40), (1_000_000, 3000)])
def test_filled_waits_until_enough_has_arrived_that_is_not_taken(messages: int, content_bytes: int) -> None:
    async def story() -> None:
        broker = Broker()
        filled = asyncio.create_task(broker.consumer.filled(messages=messages, content_bytes=content_bytes))
        await asyncio.sleep(0)
        assert broker.permits > 0, "what has not arrived must be allowed to"
        broker.deliver(bytes(1000))
        broker.deliver(bytes(1000))
        assert len(await broker.take_all()) == 2
        for _ in range(2):
            broker.deliver(bytes(1000))
            await asyncio.sleep(0)
            assert not filled.done(), "what was taken counts"
        broker.deliver(bytes(1000))
        await filled
        await broker.consumer.filled(messages=messages, content_bytes=content_bytes)  # at once: nothing was taken
        assert len(await broker.take_all()) == 3

    run(story())


def test_filled_ends_with_the_consumer_and_may_be_given_up() -> None:
    async def story() -> None:
        broker = Broker()
        given_up = asyncio.create_task(broker.consumer.filled(messages=10, content_bytes=10))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        filled = asyncio.create_task(broker.consumer.filled(messages=10, content_bytes=10))
        await asyncio.sleep(0)
        assert not filled.done()
        broker.consumer.on_closed(ConnectionLost("gone"))
        await filled
        await broker.consumer.filled(messages=10, content_bytes=10)
        with pytest.raises(ConnectionLost):
            await broker.take_all()

    run(story())


def told(size: int, compression: int = CompressionType.LZ4, count: int | None = None) -> MessageMetadata:
    """What a publisher says of an entry."""
    said = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1, uncompressed_size=size)
    said.compression = compression
    if count is not None:
        said.num_messages_in_batch = count
    return said


def test_filled_counts_what_is_compressed_by_what_it_becomes() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        broker.consumer.on_entry(Entry(MessageId(1, 1), told(1000), b"small", 0, (), ""), 0)
        await broker.consumer.filled(messages=10, content_bytes=1000)

    run(story())


def test_what_is_said_of_an_entry_makes_it_no_larger_than_it_can_be() -> None:
    """Each would be a transaction of its own otherwise, and a few hundred a second all that a partition can do."""
    closed = told(2**32 - 1)
    closed.encryption_keys.add(key="ours", value=b"wrapped key")
    claims = [told(2**32 - 1, CompressionType.NONE), closed, told(5, CompressionType.NONE, 2**31 - 1)]

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for number in range(30):
            broker.consumer.on_entry(Entry(MessageId(1, number), claims[number % 3], b"small", 0, (), ""), 0)
        assert len(await broker.consumer.take(max_messages=8_000, max_bytes=1 << 20)) == 30

    run(story())


def test_metadata_is_as_much_of_an_entry_as_its_payload() -> None:
    large = told(5, CompressionType.NONE)
    large.properties.add(key="mine", value="x" * 1000)

    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for number in range(3):
            broker.consumer.on_entry(Entry(MessageId(1, number), large, b"small", 0, (), ""), 0)
        assert len(await broker.consumer.take(max_messages=10, max_bytes=2_500)) == 2

    run(story())
