"""Finding brokers, and what producers and consumers do with answers that a real broker gives rarely."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from sequencer.pulsar import client as client_module
from sequencer.pulsar.client import AccessMode, ClientSettings, PulsarClient
from sequencer.pulsar.errors import (
    EndpointClosed,
    LookupFailed,
    NotStored,
    RequestTimedOut,
    SendFailed,
    ServerError,
)
from sequencer.pulsar.frames import MessageId, encode_payload_head
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandCloseProducer,
    CommandLookupTopicResponse,
    CommandMessage,
    CommandProducerSuccess,
    CommandSendError,
    CommandSendReceipt,
    MessageIdData,
    MessageMetadata,
    ProducerAccessMode,
)
from tests.pulsar_peer import Peer, Script, listening

TEST_LIMIT_S = 20.0
TOPIC = "persistent://public/default/t-partition-3"
UINT64_MAX = 2**64 - 1
NO_RETRY = ClientSettings(retry_for_s=0.0)


def run(story: Awaitable[Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TEST_LIMIT_S):
            await story

    asyncio.run(limited())


# --- Finding the broker ---


def granted(command: BaseCommand, *, ready: bool = True, last_sequence_id: int = -1) -> BaseCommand:
    content = CommandProducerSuccess(
        request_id=command.producer.request_id,
        producer_name="given",
        topic_epoch=5,
        producer_ready=ready,
        last_sequence_id=last_sequence_id,
    )
    return BaseCommand(type=BaseCommand.PRODUCER_SUCCESS, producer_success=content)


async def let_in(peer: Peer) -> BaseCommand:
    command = await peer.hear(BaseCommand.PRODUCER)
    peer.say(granted(command))
    return command


def test_redirects_are_followed_and_authoritative_is_passed_on() -> None:
    async def story() -> None:
        async def broker(peer: Peer) -> None:
            await peer.welcome()
            lookup = await peer.answer_lookup(broker_url)
            assert lookup.lookupTopic.authoritative
            await let_in(peer)

        async def service(peer: Peer) -> None:
            await peer.welcome()
            lookup = await peer.answer_lookup(broker_url, redirect=True)
            assert not lookup.lookupTopic.authoritative

        async with listening(broker) as broker_url, listening(service) as url, PulsarClient(url) as client:
            producer = await client.producer(TOPIC)
            assert (producer.name, producer.topic_epoch) == ("given", 5)

    run(story())


def test_a_proxy_is_asked_to_connect_us() -> None:
    async def story() -> None:
        async def service(peer: Peer) -> None:
            connect = await peer.welcome()
            assert not connect.connect.HasField("proxy_to_broker_url")
            await peer.answer_lookup("pulsar://broker-7:6650", proxied=True)

        async def through(peer: Peer) -> None:
            connect = await peer.welcome()
            assert connect.connect.proxy_to_broker_url == "broker-7:6650"
            await let_in(peer)

        async with listening(service, through) as url, PulsarClient(url) as client:
            await client.producer(TOPIC)

    run(story())


def test_redirects_in_a_circle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_REDIRECTS", 3)

    async def story() -> None:
        async def service(peer: Peer) -> None:
            await peer.welcome()
            for _ in range(3):
                await peer.answer_lookup(url, redirect=True)

        async with listening(service) as url, PulsarClient(url, settings=NO_RETRY) as client:
            with pytest.raises(LookupFailed, match="more than 3 redirects"):
                await client.producer(TOPIC)

    run(story())


def test_an_address_that_is_none() -> None:
    async def story() -> None:
        async def service(peer: Peer) -> None:
            await peer.welcome()
            await peer.answer_lookup("")

        async with listening(service) as url, PulsarClient(url, settings=NO_RETRY) as client:
            with pytest.raises(LookupFailed, match="not a pulsar://"):
                await client.producer(TOPIC)

    run(story())


@pytest.mark.parametrize(("error", "tries"), [(ServerError.SERVICE_NOT_READY, 3), (ServerError.AUTHORIZATION_ERROR, 1)])
def test_what_passes_is_waited_for_and_the_rest_is_not(error: int, tries: int) -> None:
    async def story() -> None:
        async def service(peer: Peer) -> None:
            await peer.welcome()
            for answered in range(tries):
                command = await peer.hear(BaseCommand.LOOKUP)
                answer = CommandLookupTopicResponse(
                    request_id=command.lookupTopic.request_id,
                    response="Failed",
                    error=error if answered < 2 else ServerError.TOPIC_NOT_FOUND,
                    message=f"answer {answered}",
                )
                peer.say(BaseCommand(type=BaseCommand.LOOKUP_RESPONSE, lookupTopicResponse=answer))

        async with listening(service) as url, PulsarClient(url) as client:
            with pytest.raises(LookupFailed, match=f"answer {tries - 1}"):
                await client.producer(TOPIC)

    run(story())


def test_one_connection_for_all_who_ask_at_once() -> None:
    async def story() -> None:
        async def service(peer: Peer) -> None:
            await peer.welcome()
            for _ in range(5):
                await peer.answer_lookup(url)
            for _ in range(5):
                await let_in(peer)

        async with listening(service) as url, PulsarClient(url) as client:
            await asyncio.gather(*(client.producer(TOPIC) for _ in range(5)))

    run(story())


@pytest.mark.parametrize("url", ["http://localhost", "pulsar://", "localhost:6650", "pulsar://a:b", "pulsar://a/b"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        PulsarClient(url)


# --- Producers ---


def producing(*script: Script) -> Script:
    """A peer that lets a producer in and then plays the scripts."""

    async def play(peer: Peer) -> None:
        host, port = peer.writer.get_extra_info("sockname")
        await peer.welcome()
        await peer.answer_lookup(f"pulsar://{host}:{port}")
        for part in script:
            await part(peer)

    return play


async def heard_producer(peer: Peer) -> None:
    await let_in(peer)


def test_a_parked_producer_may_wait_longer_than_a_request() -> None:
    async def story() -> None:
        async def park(peer: Peer) -> None:
            command = await peer.hear(BaseCommand.PRODUCER)
            assert ProducerAccessMode.Name(command.producer.producer_access_mode) == "WaitForExclusive"
            peer.say(granted(command, ready=False))
            await asyncio.sleep(0.3)
            peer.say(granted(command))

        settings = ClientSettings(request_timeout_s=0.1)
        async with listening(producing(park)) as url, PulsarClient(url, settings=settings) as client:
            await client.producer(TOPIC, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)

    run(story())


def test_who_gives_up_waiting_says_so() -> None:
    async def story() -> None:
        async def park(peer: Peer) -> None:
            command = await peer.hear(BaseCommand.PRODUCER)
            peer.say(granted(command, ready=False))
            close = await peer.hear(BaseCommand.CLOSE_PRODUCER)
            assert close.close_producer.producer_id == command.producer.producer_id

        async with listening(producing(park)) as url, PulsarClient(url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.producer(TOPIC, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)
            await asyncio.sleep(0)

    run(story())


@pytest.mark.parametrize("answered", [True, False])
def test_a_producer_that_is_closed_while_it_is_opened(answered: bool) -> None:
    async def story() -> None:
        async def close_at_once(peer: Peer) -> None:
            command = await peer.hear(BaseCommand.PRODUCER)
            if answered:
                peer.say(granted(command))
            closed = CommandCloseProducer(producer_id=command.producer.producer_id, request_id=UINT64_MAX)
            peer.say(BaseCommand(type=BaseCommand.CLOSE_PRODUCER, close_producer=closed))

        async with listening(producing(close_at_once)) as url, PulsarClient(url) as client:
            with pytest.raises(EndpointClosed, match="the broker has closed"):
                await client.producer(TOPIC)

    run(story())


def receipt(command: BaseCommand, ledger: int, entry: int) -> BaseCommand:
    content = CommandSendReceipt(
        producer_id=command.send.producer_id,
        sequence_id=command.send.sequence_id,
        message_id=MessageIdData(ledgerId=ledger, entryId=entry),
    )
    return BaseCommand(type=BaseCommand.SEND_RECEIPT, send_receipt=content)


def test_a_receipt_names_the_partition_and_sequence_ids_go_on() -> None:
    async def story() -> None:
        async def store(peer: Peer) -> None:
            command = await peer.hear(BaseCommand.PRODUCER)
            peer.say(granted(command, last_sequence_id=41))
            command = await peer.hear(BaseCommand.SEND)
            assert command.send.sequence_id == 42
            assert command.send.num_messages == 10
            peer.say(receipt(command, 7, 8))

        async with listening(producing(store)) as url, PulsarClient(url) as client:
            producer = await client.producer(TOPIC)
            assert await producer.send(b"", b"x", 10) == MessageId(7, 8, 3)

    run(story())


def test_a_receipt_may_say_that_nothing_was_stored() -> None:
    async def story() -> None:
        async def deduplicate(peer: Peer) -> None:
            await let_in(peer)
            peer.say(receipt(await peer.hear(BaseCommand.SEND), UINT64_MAX, UINT64_MAX))

        async with listening(producing(deduplicate)) as url, PulsarClient(url) as client:
            producer = await client.producer(TOPIC)
            with pytest.raises(NotStored):
                await producer.send(b"", b"x", 1)

    run(story())


def test_one_refused_send_ends_the_producer() -> None:
    async def story() -> None:
        async def refuse(peer: Peer) -> None:
            await let_in(peer)
            command = await peer.hear(BaseCommand.SEND)
            await peer.hear(BaseCommand.SEND)
            refused = CommandSendError(
                producer_id=command.send.producer_id, sequence_id=command.send.sequence_id, error=2, message="closed"
            )
            peer.say(BaseCommand(type=BaseCommand.SEND_ERROR, send_error=refused))
            await peer.hear(BaseCommand.CLOSE_PRODUCER)

        async with listening(producing(refuse)) as url, PulsarClient(url) as client:
            producer = await client.producer(TOPIC)
            sent = [producer.send(b"", b"x", 1) for _ in range(2)]
            for each in sent:
                with pytest.raises(SendFailed) as failed:
                    await each
                assert failed.value.error == ServerError.PERSISTENCE_ERROR
            assert isinstance(producer.lost.result(), SendFailed)

    run(story())


def test_a_send_without_a_receipt_ends_the_producer() -> None:
    async def story() -> None:
        async def forget(peer: Peer) -> None:
            await let_in(peer)
            peer.say(receipt(await peer.hear(BaseCommand.SEND), 1, 1))
            await peer.hear(BaseCommand.SEND)
            await peer.hear(BaseCommand.CLOSE_PRODUCER)

        settings = ClientSettings(request_timeout_s=0.2)
        async with listening(producing(forget)) as url, PulsarClient(url, settings=settings) as client:
            producer = await client.producer(TOPIC)
            await producer.send(b"", b"x", 1)
            with pytest.raises(RequestTimedOut, match="no receipt"):
                await producer.send(b"", b"x", 1)
            assert isinstance(producer.lost.result(), RequestTimedOut)

    run(story())


# --- Consumers ---


async def subscribed(peer: Peer) -> BaseCommand:
    return await peer.succeed(BaseCommand.SUBSCRIBE, "subscribe")


def message(consumer_id: int, entry: int, payload: bytes, **metadata: Any) -> bytes:
    content = CommandMessage(consumer_id=consumer_id, message_id=MessageIdData(ledgerId=1, entryId=entry))
    command = BaseCommand(type=BaseCommand.MESSAGE, message=content)
    written = MessageMetadata(producer_name="p", sequence_id=entry, publish_time=1, **metadata).SerializeToString()
    return encode_payload_head(command, written, payload) + payload


def test_a_damaged_entry_is_delivered_as_such() -> None:
    async def story() -> None:
        async def deliver(peer: Peer) -> None:
            consumer_id = (await subscribed(peer)).subscribe.consumer_id
            await peer.hear(BaseCommand.FLOW)
            broken = bytearray(message(consumer_id, 0, b"payload"))
            broken[-1] ^= 1
            peer.writer.write(bytes(broken) + message(consumer_id, 1, b"whole"))

        async with listening(producing(deliver)) as url, PulsarClient(url) as client:
            consumer = await client.subscribe(TOPIC, "s")
            entries = await consumer.take(max_messages=2, max_bytes=100)
            while len(entries) < 2:
                entries += await consumer.take(max_messages=2, max_bytes=100)
            assert [bool(entry.damage) for entry in entries] == [True, False]

    run(story())


def test_entries_for_nobody_are_dropped() -> None:
    async def story() -> None:
        async def deliver(peer: Peer) -> None:
            await subscribed(peer)
            peer.writer.write(message(4711, 0, b"stray"))
            await peer.succeed(BaseCommand.CLOSE_CONSUMER, "close_consumer")

        async with listening(producing(deliver)) as url, PulsarClient(url) as client:
            consumer = await client.subscribe(TOPIC, "s")
            await consumer.close()
            assert isinstance(consumer.lost.result(), EndpointClosed)

    run(story())


def test_closing_the_client_closes_everything() -> None:
    async def story() -> None:
        async with listening(producing(heard_producer)) as url:
            client = PulsarClient(url)
            producer = await client.producer(TOPIC)
            await client.close()
            assert isinstance(producer.lost.result(), EndpointClosed)
            with pytest.raises(EndpointClosed):
                await client.producer(TOPIC)
            await client.close()

    run(story())


def test_who_closes_the_client_can_be_cancelled_meanwhile() -> None:
    async def story() -> None:
        connecting = asyncio.Event()

        async def silent(peer: Peer) -> None:
            await peer.hear(BaseCommand.CONNECT)
            connecting.set()

        async with listening(silent) as url:
            client = PulsarClient(url)
            waiting = asyncio.create_task(client.partitions(TOPIC))
            await connecting.wait()
            closing = asyncio.create_task(client.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run(story())
