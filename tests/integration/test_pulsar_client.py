"""Our client against the real broker, and against the official client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pulsar
import pytest
import uvloop

from sequencer.broker import EmbeddedBroker
from sequencer.entries import read_submitted
from sequencer.plain import PlainBatch
from sequencer.pulsar import commands
from sequencer.pulsar.batches import Compression, compress, decompress, join_batch, split_batch
from sequencer.pulsar.client import EARLIEST, LATEST, AccessMode, ClientSettings, Consumer, Producer, PulsarClient
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.errors import (
    ConnectionLost,
    ConsumerBusy,
    EndpointClosed,
    ProducerFenced,
    PulsarError,
    RequestTimedOut,
    ServerError,
    ServerRefused,
)
from sequencer.pulsar.frames import Entry, MessageId, TxnId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.pulsar.settings import NO_AUTH, parse_service_url
from tests.submitted import event_id, structured

TEST_LIMIT_S = 60.0
TTL_MS = 60_000
SUBSCRIPTION = "s"
OFFICIAL_COMPRESSION = {
    Compression.NONE: pulsar.CompressionType.NONE,
    Compression.LZ4: pulsar.CompressionType.LZ4,
    Compression.ZLIB: pulsar.CompressionType.ZLib,
    Compression.ZSTD: pulsar.CompressionType.ZSTD,
    Compression.SNAPPY: pulsar.CompressionType.SNAPPY,
}

QUIET = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(
    story: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TEST_LIMIT_S):
            await story

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(limited())


@pytest.fixture
def topic(broker: EmbeddedBroker, namespace: str) -> str:
    """A fresh topic, not partitioned."""
    name = f"persistent://{namespace}/topic"
    admin(broker, "PUT", name)
    return name


def admin(broker: EmbeddedBroker, method: str, topic: str, path: str = "", json: object = None) -> httpx.Response:
    url = f"{broker.admin_url}/admin/v2/{topic.replace('://', '/')}{path}"
    answer = httpx.request(method, url, json=json, timeout=30.0, trust_env=False)
    return answer.raise_for_status()


def wait_for_compaction(broker: EmbeddedBroker, topic: str) -> None:
    while admin(broker, "GET", topic, "/compaction").json()["status"] != "SUCCESS":
        time.sleep(0.05)  # the broker has nothing that could be awaited


@asynccontextmanager
async def official(broker: EmbeddedBroker) -> AsyncIterator[pulsar.Client]:
    client = await asyncio.to_thread(pulsar.Client, broker.service_url, logger=QUIET)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.close)


def connection_of(endpoint: Producer | Consumer) -> Connection:
    return endpoint._connection


async def refused(awaitable: Any) -> ServerRefused:
    with pytest.raises(ServerRefused) as caught:
        await awaitable
    return caught.value


async def take(consumer: Consumer, count: int) -> list[Entry]:
    entries: list[Entry] = []
    while len(entries) < count:
        entries += await consumer.take(max_messages=count - len(entries), max_bytes=1 << 30)
    return entries


# --- Finding topics ---


def test_partitions_of_a_topic(broker: EmbeddedBroker, namespace: str) -> None:
    async def story() -> None:
        name = f"persistent://{namespace}/partitioned"
        admin(broker, "PUT", name, "/partitions", json=3)
        async with PulsarClient(broker.service_url) as client:
            assert await client.partitions(name) == 3
            assert await client.partitions(f"{name}-partition-0") == 0
            assert await client.coordinators() == 1
            missing = await refused(client.partitions(f"persistent://{namespace}/missing"))
            assert missing.error == ServerError.TOPIC_NOT_FOUND

    run(story())


def test_a_missing_topic_is_not_made(broker: EmbeddedBroker, namespace: str) -> None:
    async def story() -> None:
        missing = f"persistent://{namespace}/missing"
        async with PulsarClient(broker.service_url) as client:
            assert (await refused(client.producer(missing))).error == ServerError.TOPIC_NOT_FOUND
            assert (await refused(client.subscribe(missing, SUBSCRIPTION))).error == ServerError.TOPIC_NOT_FOUND
            assert (await refused(client.reader(missing))).error == ServerError.TOPIC_NOT_FOUND

    run(story())


def test_nobody_listens_there() -> None:
    async def story() -> None:
        client = PulsarClient("pulsar://127.0.0.1:1,127.0.0.1:2")
        with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:2"):
            await client.partitions("t")
        await client.close()
        with pytest.raises(EndpointClosed):
            await client.partitions("t")

    run(story())


def test_the_second_address_of_a_service_url(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        url = broker.service_url.replace("pulsar://", "pulsar://127.0.0.1:1,")
        async with PulsarClient(url) as client:
            assert await client.partitions(topic) == 0

    run(story())


# --- Producing and consuming ---


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_sent_arrives(broker: EmbeddedBroker, topic: str, loop: str) -> None:
    payloads = [b"x", b"", bytes(5 * 1024 * 1024 - 100), *(b"%d" % i * 100 for i in range(2000))]

    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            consumer = await client.subscribe(topic, SUBSCRIPTION, consumer_name="me")
            assert (await consumer.last_message_id()).ledger == -1
            producer = await client.producer(topic, name="mine")
            assert producer.name == "mine"
            assert connection_of(producer) is connection_of(consumer)
            metadata = MessageMetadata(partition_key="k").SerializePartialToString()
            receipts = [producer.send(metadata, payload, 1) for payload in payloads]
            await producer.drain()
            ids = [await receipt for receipt in receipts]
            assert ids == sorted(ids)
            entries = await take(consumer, len(payloads))
            assert [entry.payload for entry in entries] == payloads
            assert [entry.message_id[:2] for entry in entries] == [message_id[:2] for message_id in ids]
            assert all(not entry.damage for entry in entries)
            assert {entry.metadata.partition_key for entry in entries} == {"k"}
            assert [entry.metadata.sequence_id for entry in entries] == list(range(len(payloads)))
            assert abs(entries[0].metadata.publish_time / 1000 - time.time()) < 60
            assert (await consumer.last_message_id())[:2] == ids[-1][:2]
            await consumer.close()
            await producer.close()
            with pytest.raises(EndpointClosed):
                await consumer.take(max_messages=1, max_bytes=1)
            with pytest.raises(EndpointClosed):
                await producer.send(b"", b"late", 1)

    run(story(), LOOPS[loop])


def test_an_entry_that_is_too_large_is_the_callers_mistake(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            with pytest.raises(ValueError, match="allowed are"):
                producer.send(b"", bytes(producer.max_message_size + 1), 1)
            await producer.send(b"", b"goes on", 1)

    run(story())


def test_acknowledged_entries_do_not_come_again(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            for receipt in [producer.send(b"", b"%d" % i, 1) for i in range(10)]:
                await receipt
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            entries = await take(consumer, 10)
            await consumer.ack([entry.message_id for entry in entries if entry.payload not in (b"3", b"7")])
            await consumer.close()
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            assert [entry.payload for entry in await take(consumer, 2)] == [b"3", b"7"]

    run(story())


def test_redelivery_brings_what_is_not_acknowledged(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            payloads = [b"%d" % i for i in range(1500)]
            for receipt in [producer.send(b"", payload, 1) for payload in payloads]:
                await receipt
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            entries = await take(consumer, 1500)
            for first in (10, 700):
                await consumer.ack([entry.message_id for entry in entries[:first]])
                await consumer.redeliver()
                entries = await take(consumer, len(entries) - first)
                assert [entry.payload for entry in entries] == payloads[-len(entries) :]

    run(story())


def test_one_consumer_at_a_time(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as first, PulsarClient(broker.service_url) as second:
            consumer = await first.subscribe(topic, SUBSCRIPTION)
            with pytest.raises(ConsumerBusy):
                await second.subscribe(topic, SUBSCRIPTION)
            await consumer.close()
            await (await second.subscribe(topic, SUBSCRIPTION)).close()

    run(story())


def test_a_new_subscription_may_begin_at_the_end(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            await producer.send(b"", b"old", 1)
            consumer = await client.subscribe(topic, SUBSCRIPTION, initial_position=LATEST)
            consumer.start()
            await producer.send(b"", b"new", 1)
            assert [entry.payload for entry in await take(consumer, 1)] == [b"new"]

    run(story())


def test_taking_is_limited_in_messages_and_bytes(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            for _ in range(8):
                await producer.send(b"", bytes(1000), 1)
            reader = await client.reader(topic)
            assert len(await reader.take(max_messages=1, max_bytes=10**9)) == 1
            assert len(await reader.take(max_messages=100, max_bytes=1)) == 1
            await take(reader, 6)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.take(max_messages=1, max_bytes=1)

    run(story())


# --- Batches and compression, with the official client at the other end ---


@pytest.mark.parametrize("kind", Compression)
def test_batches_of_the_official_client(broker: EmbeddedBroker, topic: str, kind: Compression) -> None:
    payloads = [b"%d" % i * 20 for i in range(100)]

    async def story() -> None:
        def publish(client: pulsar.Client) -> None:
            producer = client.create_producer(
                topic,
                compression_type=OFFICIAL_COMPRESSION[kind],
                batching_enabled=True,
                batching_max_messages=100,
                batching_max_publish_delay_ms=1000,
            )
            for i, payload in enumerate(payloads):
                producer.send_async(payload, lambda *_: None, partition_key=f"k{i}", properties={"i": str(i)})
            producer.flush()

        async with official(broker) as client:
            await asyncio.to_thread(publish, client)
        async with PulsarClient(broker.service_url) as ours:
            reader = await ours.reader(topic)
            (entry,) = await take(reader, 1)
        metadata = entry.metadata
        assert metadata.compression == kind
        assert metadata.num_messages_in_batch == 100
        data = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, 1 << 20)
        found = list(split_batch(data, 100))
        assert [payload for _, _, payload in found] == payloads
        assert [single.partition_key for single, _, _ in found] == [f"k{i}" for i in range(100)]

    run(story())


@pytest.mark.parametrize("mode", ["structured", "binary", "binary, version first"])
def test_what_the_official_client_sends_is_read_by_columns(broker: EmbeddedBroker, topic: str, mode: str) -> None:
    """With all that it adds to a message by itself. Read one by one it would mean the same, and cost twice as much."""
    names = [event_id(f"{i}") for i in range(20)]

    async def story() -> None:
        def publish(client: pulsar.Client) -> None:
            producer = client.create_producer(
                topic, batching_enabled=True, batching_max_messages=20, batching_max_publish_delay_ms=1000
            )
            for i, name in enumerate(names):
                properties = [("id", name), ("version", str(i))]
                producer.send_async(
                    structured(name, version=i),
                    lambda *_: None,
                    partition_key=f"k{i}",
                    properties={"structured": {}, "binary": dict(properties)}.get(mode, dict(properties[::-1])),
                    event_timestamp=i,
                )
            producer.flush()

        async with official(broker) as client:
            await asyncio.to_thread(publish, client)
        async with PulsarClient(broker.service_url) as ours:
            reader = await ours.reader(topic)
            (entry,) = await take(reader, 1)
        (plain,) = read_submitted([entry], 5 << 20)
        assert isinstance(plain, PlainBatch)
        assert (plain.id_texts, plain.expected) == (names, list(range(20)))
        assert plain.keys == [f"k{i}" for i in range(20)]

    run(story())


@pytest.mark.parametrize("kind", Compression)
def test_our_batches_for_the_official_client(broker: EmbeddedBroker, topic: str, kind: Compression) -> None:
    payloads = [b"%d" % i * 20 for i in range(100)]

    async def story() -> None:
        parts = [
            (SingleMessageMetadata(payload_size=len(each), partition_key=f"k{i}").SerializeToString(), each)
            for i, each in enumerate(payloads)
        ]
        data = join_batch(parts)
        metadata = MessageMetadata(num_messages_in_batch=100, compression=kind, uncompressed_size=len(data))
        async with PulsarClient(broker.service_url) as ours:
            producer = await ours.producer(topic)
            message_id = await producer.send(metadata.SerializePartialToString(), compress(kind, data), 100)

        def read(client: pulsar.Client) -> list[tuple[str, bytes, int, int]]:
            reader = client.create_reader(topic, pulsar.MessageId.earliest)
            found = [reader.read_next(timeout_millis=10_000) for _ in payloads]
            return [
                (each.partition_key(), each.data(), each.message_id().entry_id(), each.message_id().batch_index())
                for each in found
            ]

        async with official(broker) as client:
            found = await asyncio.to_thread(read, client)
        assert found == [(f"k{i}", payload, message_id.entry, i) for i, payload in enumerate(payloads)]

    run(story())


# --- Who may produce ---


def test_shared_producers(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            one, two = await client.producer(topic), await client.producer(topic)
            assert one.name != two.name
            await asyncio.gather(one.send(b"", b"1", 1), two.send(b"", b"2", 1))

    run(story())


def test_an_exclusive_producer_keeps_others_out(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as first, PulsarClient(broker.service_url) as second:
            holder = await first.producer(topic, access_mode=AccessMode.EXCLUSIVE)
            for mode in (AccessMode.EXCLUSIVE, AccessMode.SHARED):
                with pytest.raises(ServerRefused):
                    await second.producer(topic, access_mode=mode)
            with pytest.raises(ProducerFenced):
                await second.producer(topic, access_mode=AccessMode.EXCLUSIVE)
            await holder.send(b"", b"still here", 1)
            await holder.close()
            successor = await second.producer(topic, access_mode=AccessMode.EXCLUSIVE)
            assert successor.topic_epoch > holder.topic_epoch

    run(story())


@pytest.mark.parametrize("end", ["close", "kill"])
def test_exclusive_access_is_granted_when_the_holder_goes(broker: EmbeddedBroker, topic: str, end: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as first, PulsarClient(broker.service_url) as second:
            holder = await first.producer(topic, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)
            waiting = asyncio.create_task(second.producer(topic, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE))
            await holder.send(b"", b"the standby is parked by now or will be", 1)
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            assert not done
            if end == "close":
                await holder.close()
            else:
                connection_of(holder).drop(ConnectionLost("killed by the test"))
                assert isinstance(holder.lost.result(), ConnectionLost)
            successor = await waiting
            assert successor.topic_epoch > holder.topic_epoch
            await successor.send(b"", b"mine now", 1)

    run(story())


def test_who_gives_up_waiting_is_forgotten(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as first, PulsarClient(broker.service_url) as second:
            holder = await first.producer(topic, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await second.producer(topic, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)
            # The same connection asks again and is parked again; then it is its turn, and nobody else's.
            waiting = asyncio.create_task(second.producer(topic, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE))
            await asyncio.wait([waiting], timeout=0.3)
            await holder.close()
            successor = await waiting
            await successor.send(b"", b"mine", 1)
            await successor.close()
            await (await first.producer(topic, access_mode=AccessMode.EXCLUSIVE)).send(b"", b"free again", 1)

    run(story())


def test_a_fenced_zombie_cannot_send(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as first, PulsarClient(broker.service_url) as second:
            zombie = await first.producer(topic, access_mode=AccessMode.EXCLUSIVE_WITH_FENCING)
            await zombie.send(b"", b"alive", 1)
            successor = await second.producer(topic, access_mode=AccessMode.EXCLUSIVE_WITH_FENCING)
            assert successor.topic_epoch > zombie.topic_epoch
            with pytest.raises(PulsarError):
                await zombie.send(b"", b"undead", 1)
            assert isinstance(await zombie.lost, PulsarError)
            after = await successor.send(b"", b"after", 1)
            reader = await second.reader(topic)
            assert [entry.payload for entry in await take(reader, 2)] == [b"alive", b"after"]
            assert (await reader.last_message_id())[:2] == after[:2]

    run(story())


def test_a_defect_of_the_broker_what_claims_to_be_no_messages_is_not_delivered(
    broker: EmbeddedBroker, topic: str
) -> None:
    """Where the claims of the batches that it (4.2.4) reads at once add up to 0, it sends none of them, and goes on
    with what comes after; they come with the next subscription, in other company. What follows from it: see
    docs/reliability.md."""

    def claiming(messages: int) -> bytes:
        return MessageMetadata(num_messages_in_batch=messages).SerializePartialToString()

    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            await producer.send(claiming(1), b"somebody's", 1)
            await producer.send(claiming(-1), b"a hostile one", 1)
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            consumer.start()
            await consumer.last_message_id()  # answered after the FLOW, so that both are read
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await take(consumer, 1)
            await producer.send(claiming(1), b"after", 1)
            assert [entry.payload for entry in await take(consumer, 1)] == [b"after"]
            await consumer.close()
            again = await client.subscribe(topic, SUBSCRIPTION)
            assert [entry.payload for entry in await take(again, 3)] == [b"somebody's", b"a hostile one", b"after"]

    run(story())


# --- Transactions ---


async def registered(client: PulsarClient, topic: str) -> tuple[Any, TxnId]:
    coordinator = await client.coordinator(0)
    txn = await coordinator.new_txn(ttl_ms=TTL_MS)
    await asyncio.gather(
        coordinator.add_partitions(txn, [topic]), coordinator.add_subscription(txn, topic, SUBSCRIPTION)
    )
    return coordinator, txn


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction(broker: EmbeddedBroker, topic: str, commit: bool) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            reader = await client.reader(topic)
            inputs = [await producer.send(b"", b"in%d" % i, 1) for i in range(3)]
            assert len(await take(consumer, 3)) == 3
            coordinator, txn = await registered(client, topic)
            output = await producer.send(b"", b"out", 1, txn=txn)
            await consumer.ack(inputs[:2], txn=txn)
            after = await producer.send(b"", b"after", 1)
            assert (await reader.last_message_id())[:2] == inputs[-1][:2]
            await coordinator.end(txn, commit=commit)
            for end in (commit, not commit):
                again = await refused(coordinator.end(txn, commit=end))
                assert again.error == ServerError.TRANSACTION_NOT_FOUND

            expected = [b"in0", b"in1", b"in2", b"out", b"after"] if commit else [b"in0", b"in1", b"in2", b"after"]
            found = await take(reader, len(expected))
            assert [entry.payload for entry in found] == expected
            if commit:
                assert (found[3].metadata.txnid_most_bits, found[3].metadata.txnid_least_bits) == txn
                assert found[3].message_id[:2] == output[:2]
            assert found[-1].message_id[:2] == after[:2]
            await consumer.close()
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            left = [b"in2", b"out", b"after"] if commit else expected
            assert [entry.payload for entry in await take(consumer, len(left))] == left

    run(story())


def test_many_transactions_at_once(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            coordinator = await client.coordinator(0)
            txns = await asyncio.gather(*(coordinator.new_txn(ttl_ms=TTL_MS) for _ in range(50)))
            assert len(set(txns)) == 50
            assert {txn.most for txn in txns} == {0}
            await asyncio.gather(*(coordinator.end(txn, commit=False) for txn in txns))

    run(story())


def test_an_acknowledgement_in_two_transactions_is_a_conflict(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            message_id = await producer.send(b"", b"in", 1)
            coordinator, first = await registered(client, topic)
            _, second = await registered(client, topic)
            await consumer.ack([message_id], txn=first)
            conflict = await refused(consumer.ack([message_id], txn=second))
            assert conflict.error == ServerError.TRANSACTION_CONFLICT
            for txn in (first, second):
                await coordinator.end(txn, commit=False)

    run(story())


# --- Reading ---


def test_where_a_reader_begins(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            ids: list[MessageId] = []
            for i in range(5):
                metadata = MessageMetadata(num_messages_in_batch=2).SerializePartialToString()
                single = SingleMessageMetadata(payload_size=1).SerializeToString()
                ids.append(await producer.send(metadata, join_batch([(single, b"%d" % i)] * 2), 2))

            async def seen(start: MessageId, inclusive: bool = False) -> list[int]:
                reader = await client.reader(topic, start=start, inclusive=inclusive)
                last = await reader.last_message_id()
                entries = await reader.take(max_messages=1, max_bytes=1)
                while entries[-1].message_id[:2] < last[:2]:
                    entries += await reader.take(max_messages=100, max_bytes=10**6)
                await reader.close()
                return [ids.index(MessageId(*entry.message_id[:2])) for entry in entries]

            assert await seen(EARLIEST) == [0, 1, 2, 3, 4]
            assert await seen(ids[2]) == [3, 4]
            assert await seen(ids[2], inclusive=True) == [2, 3, 4]
            assert await seen(ids[2]._replace(batch_index=0)) == [3, 4]
            assert await seen(ids[2]._replace(batch_index=1), inclusive=True) == [2, 3, 4]
            assert await seen(ids[0], inclusive=True) == [0, 1, 2, 3, 4]
            assert await seen(ids[4], inclusive=True) == [4]
            reader = await client.reader(topic, start=ids[4])
            bounds = await reader.bounds()
            assert bounds.acknowledged is not None
            assert bounds.acknowledged[:2] == bounds.message_id[:2] == ids[4][:2]
            reader.start()
            beyond = await client.reader(topic, start=MessageId(ids[4].ledger + 1000, 0))
            beyond.start()
            latest = await client.reader(topic, start=LATEST)
            latest.start()
            await producer.send(b"", b"new", 1)
            for each in (reader, beyond, latest):
                assert [entry.payload for entry in await take(each, 1)] == [b"new"]

    run(story())


def test_a_reader_that_goes_back_in_time(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            await producer.send(b"", b"one", 1)
            reader = await client.reader(topic, start=LATEST, rollback_s=3600)
            assert [entry.payload for entry in await take(reader, 1)] == [b"one"]

    run(story())


def test_the_compacted_view(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            for i in range(30):
                metadata = MessageMetadata(partition_key=f"k{i % 3}").SerializePartialToString()
                await producer.send(metadata, b"%d" % i, 1)
            await asyncio.to_thread(admin, broker, "PUT", topic, "/compaction")
            await asyncio.to_thread(wait_for_compaction, broker, topic)
            await producer.send(b"", b"later", 1)
            reader = await client.reader(topic, read_compacted=True)
            assert [entry.payload for entry in await take(reader, 4)] == [b"27", b"28", b"29", b"later"]
            plain = await client.reader(topic)
            assert len(await take(plain, 31)) == 31

    run(story())


# --- Failures ---


def test_an_unloaded_topic_is_lost(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            taking = asyncio.create_task(consumer.take(max_messages=1, max_bytes=1))
            await asyncio.to_thread(admin, broker, "PUT", topic, "/unload")
            assert isinstance(await producer.lost, EndpointClosed)
            assert isinstance(await consumer.lost, EndpointClosed)
            with pytest.raises(EndpointClosed):
                await taking
            with pytest.raises(EndpointClosed):
                await producer.send(b"", b"late", 1)
            with pytest.raises(EndpointClosed):
                await consumer.ack([MessageId(1, 1)])
            with pytest.raises(EndpointClosed):
                await consumer.last_message_id()
            # The same client opens both anew.
            await (await client.producer(topic)).send(b"", b"again", 1)
            assert [entry.payload for entry in await take(await client.subscribe(topic, SUBSCRIPTION), 1)] == [b"again"]

    run(story())


def test_a_request_that_is_never_answered_times_out(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        (address,) = parse_service_url(broker.service_url)
        connection = await Connection.open(address, ClientSettings(request_timeout_s=0.3), NO_AUTH)
        with pytest.raises(RequestTimedOut, match=r"ACK: no answer .* within 0\.3 s"):
            await connection.start(commands.ack(4711, [MessageId(1, 1)], None), "ACK")
        connection.close()

    run(story())


def test_what_a_dead_connection_takes_along(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        async with PulsarClient(broker.service_url) as client:
            producer = await client.producer(topic)
            consumer = await client.subscribe(topic, SUBSCRIPTION)
            coordinator = await client.coordinator(0)
            taking = asyncio.create_task(consumer.take(max_messages=1, max_bytes=1))
            opening = asyncio.create_task(coordinator.new_txn(ttl_ms=TTL_MS))
            await asyncio.sleep(0)
            sent = producer.send(b"", b"x", 1)
            reason = ConnectionLost("cut")
            connection_of(producer).drop(reason)
            for waiting in (taking, opening, sent):
                with pytest.raises(ConnectionLost, match="cut"):
                    await waiting
            assert producer.lost.result() is consumer.lost.result() is coordinator.lost.result() is reason
            with pytest.raises(ConnectionLost):
                await producer.drain()
            await consumer.close()
            await producer.close()
            # The next use makes a new connection.
            await (await client.producer(topic)).send(b"", b"again", 1)

    run(story())


def test_the_connection_stays_alive_when_nothing_happens(broker: EmbeddedBroker, topic: str) -> None:
    async def story() -> None:
        settings = ClientSettings(keep_alive_s=0.05, silent_limit_s=0.4)
        async with PulsarClient(broker.service_url, settings=settings) as client:
            producer = await client.producer(topic)
            done, _ = await asyncio.wait([producer.lost], timeout=1.5)
            assert not done
            await producer.send(b"", b"x", 1)

    run(story())
