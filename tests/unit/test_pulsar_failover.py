"""Turns of a failover subscription, acknowledging up to a message, and a fixed window of permits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from sequencer.pulsar import commands
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.consumer import Consumer
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand, CommandAck, MessageMetadata

METADATA = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1)


class Broker:
    """Takes what a consumer says, and delivers."""

    def __init__(self, window_messages: int | None = None, has_turn: bool = True) -> None:
        self.permits = 0
        self.delivered = 0
        self.consumer = Consumer(cast(Connection, self), "topic", 7, None, window_messages, has_turn)

    def attach_consumer(self, consumer_id: int, port: Consumer) -> None:
        """It is known."""

    def tell(self, command: BaseCommand) -> None:
        assert command.type == BaseCommand.FLOW
        self.permits += command.flow.messagePermits

    def deliver(self) -> None:
        self.permits -= 1
        self.delivered += 1
        self.consumer.on_entry(Entry(MessageId(1, self.delivered), METADATA, b"x", 0, (), ""), 0)

    async def take(self) -> list[int]:
        """The numbers of the entries that are taken."""
        return [entry.message_id.entry for entry in await self.consumer.take(max_messages=1000, max_bytes=1000)]


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await story

    asyncio.run(limited())


def test_before_the_first_turn_nothing_counts() -> None:
    async def story() -> None:
        broker = Broker(has_turn=False)
        waiting = asyncio.create_task(broker.take())
        await asyncio.sleep(0)
        broker.deliver()
        broker.consumer.on_turn_changed(True)
        broker.deliver()
        assert await waiting == []  # the turn has changed
        assert broker.consumer.turn == 1
        assert await broker.take() == [2]
        assert broker.permits > 0

    run(story())


def test_what_was_not_taken_is_dropped_when_the_turn_changes() -> None:
    async def story() -> None:
        broker = Broker()
        broker.consumer.start()
        for active in (False, True):
            broker.deliver()
            broker.consumer.on_turn_changed(active)
        broker.deliver()
        assert broker.consumer.turn == 2
        assert await broker.take() == [3]

    run(story())


def test_a_window_is_open_from_the_first_moment_on_and_stays() -> None:
    async def story() -> None:
        broker = Broker(window_messages=5000)
        broker.consumer.start()
        assert broker.permits == 5000
        for _ in range(20_000):
            broker.deliver()
            assert broker.permits >= 2500
            await broker.take()

    run(story())


@pytest.mark.parametrize(
    ("batch_index", "batch_size", "ack_set"),
    [
        (-1, 1, []),
        (0, 1, []),
        (9, 10, []),
        (0, 3, [0b110]),
        (1, 3, [0b100]),
        (62, 64, [-(2**63)]),
        (63, 65, [0, 1]),
        (0, 128, [-2, -1]),
    ],
)
def test_acknowledging_up_to_a_message_of_a_batch(batch_index: int, batch_size: int, ack_set: list[int]) -> None:
    """A bit that is set is a message that is not acknowledged."""
    ack = commands.ack_up_to(7, MessageId(3, 4, 5, batch_index), batch_size).ack
    assert (ack.consumer_id, ack.ack_type) == (7, CommandAck.Cumulative)
    (message_id,) = ack.message_id
    assert (message_id.ledgerId, message_id.entryId) == (3, 4)
    assert list(message_id.ack_set) == ack_set
    assert message_id.HasField("batch_size") == bool(ack_set)
