"""`sequencer run` without transactions: outcomes are stored at once, and the input is acknowledged when they are.

It is the same loop with the same limits; only what an owner holds is put in the place of the real thing, from here. A
crash between the two leaves events in the log whose input comes again, so this is for comparison and nothing else.

As a process of its own:  python -m bench.without_transactions run --service-url URL --namespace NAMESPACE
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import patch

from sequencer import partition
from sequencer.cli import cli
from sequencer.partition import Office, Partition
from sequencer.pulsar.client import Consumer, Coordinator, Producer, PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.frames import Entry, MessageId

_take_over, _subscribe = partition.take_over, partition._subscribe


class LateConsumer:
    """Acknowledges what a batch came from when `acknowledge_oldest` is called, and nobody waits for the answer."""

    def __init__(self, consumer: Consumer) -> None:
        self.lost: asyncio.Future[PulsarError] = consumer.lost
        self._consumer = consumer
        self._waiting: deque[Sequence[MessageId]] = deque()

    async def take(self, *, max_messages: int, max_bytes: int) -> list[Entry]:
        return await self._consumer.take(max_messages=max_messages, max_bytes=max_bytes)

    async def filled(self, *, messages: int, content_bytes: int) -> None:
        await self._consumer.filled(messages=messages, content_bytes=content_bytes)

    def ack(self, ids: Sequence[MessageId], *, txn: None) -> asyncio.Future[None]:
        """Done at once: the loop waits for it before it commits."""
        self._waiting.append(ids)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def acknowledge_oldest(self) -> None:
        self._consumer.ack(self._waiting.popleft())

    async def close(self) -> None:
        await self._consumer.close()


class NoCoordinator:
    """What is called its commit comes when every receipt is there, in order: the time to acknowledge."""

    def __init__(self, coordinator: Coordinator, number: int) -> None:
        self.lost: asyncio.Future[PulsarError] = coordinator.lost
        self._number = number

    async def add_partitions(self, txn: None, topics: Sequence[str]) -> None:
        """There is nothing to add them to."""

    async def end(self, txn: None, *, commit: bool) -> None:
        assert commit
        consumers[self._number].acknowledge_oldest()


class NoPool:
    """Hands out no transaction, as many as are wanted."""

    async def fill(self) -> None: ...
    async def take(self) -> None: ...
    def ended(self, txn: None) -> None: ...
    async def close(self) -> None: ...
    def abandon(self) -> None: ...


consumers: dict[int, LateConsumer] = {}
"""By partition: the one in use."""


async def take_over(client: PulsarClient, mine: Partition, owner: Producer) -> Office:
    """As the real one, which also ends what a predecessor may have left."""
    office = await _take_over(client, mine, owner)
    return office._replace(coordinator=cast(Any, NoCoordinator(office.coordinator, mine.number)))


async def subscribe(client: PulsarClient, mine: Partition) -> LateConsumer:
    consumers[mine.number] = LateConsumer(await _subscribe(client, mine))
    return consumers[mine.number]


if __name__ == "__main__":
    with (
        patch.object(partition, "take_over", take_over),
        patch.object(partition, "_subscribe", subscribe),
        patch.object(Office, "pool", lambda office, mine: NoPool()),
    ):
        cli()
