"""Several consumers share the partitions, and the broker remembers how far they have come.

Every member subscribes to every partition (a failover subscription, named after the group), and the broker gives each
partition to one of them at a time, in fair shares: while it has its *turn* there. When members come or go the turns
change, and whoever has a partition next begins after what was committed last.

So an event is given out at least once. A member that is slow to commit, or that does not know yet that it has lost its
turn, may still be at work on events that the next one gets too; a read model that must count each of them once keeps
its own checkpoint and reads without a group.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from uuid import uuid4

from sequencer.client.recorded import read_new
from sequencer.client.subscription import TAKE_BYTES, TAKE_MESSAGES, Subscription
from sequencer.client.values import END, Codec, From, PartitionPoint, Recorded, StoreSettings, T
from sequencer.names import Topics
from sequencer.pulsar.client import EARLIEST, LATEST, Consumer, PulsarClient
from sequencer.pulsar.errors import EndpointClosed, PulsarError
from sequencer.pulsar.frames import MessageId

UNKNOWN = PartitionPoint(None, EARLIEST)
"""Where a turn begins: wherever the last one was committed."""

_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


class GroupSubscription(Subscription[T]):
    """A member of a group. Made by `EventStore.subscribe(group=...)`.

    Iterate over it as over any subscription, and `commit` what has been dealt with. Sequences are checked within each
    turn.
    """

    def __init__(
        self,
        settings: StoreSettings,
        topics: Topics,
        partitions: Iterable[int],
        start: From,
        codec: Codec[T],
        group: str,
    ) -> None:
        """`start` matters to a group's very first member only.

        Raises:
            ValueError: the group's name has other characters than A-Z a-z 0-9 _ . - or more than 128.
        """
        if not _NAME.fullmatch(group):
            raise ValueError(f"not a group's name: {group!r}")
        super().__init__(settings, topics, partitions, start, codec)
        self._subscription = f"group-{group}"
        self._initial_position = LATEST if start is END else EARLIEST
        self._member = uuid4().hex
        self._consumers: dict[int, Consumer] = {}
        self._subscribed = asyncio.Event()

    async def commit(self, event: Recorded[T]) -> None:
        """Have the group go on after this event, in its partition, whoever reads it then.

        It holds for all events before it too. Returns when the broker has heard it, which stores it a moment later:
        what was committed just before a broker dies may be given out again. Where the connection is lost meanwhile it
        waits for the next one.

        Raises:
            PulsarError: the subscription has ended, or the broker refuses it.
            ValueError: the event is of a partition that this member does not read.
        """
        if event.partition not in self._points:
            raise ValueError(f"partition {event.partition} is none of {sorted(self._points)}")
        while True:
            consumer = self._consumers.get(event.partition)
            if consumer is not None:
                try:
                    await consumer.ack_up_to(event.position, event.batch_size)
                    return
                except PulsarError:
                    if not consumer.lost.done():
                        raise
                    if self._consumers.get(event.partition) is consumer:
                        del self._consumers[event.partition]
            if not self._lives.running:
                raise self._lives.failure or EndpointClosed("the subscription has ended")
            self._subscribed.clear()
            await self._subscribed.wait()

    def _have_ended(self) -> None:
        super()._have_ended()
        self._subscribed.set()

    async def _read(self, client: PulsarClient, partition: int) -> None:
        consumer = await client.subscribe(
            self._topics.events_partition(partition),
            self._subscription,
            consumer_name=self._member,
            initial_position=self._initial_position,
            failover=True,
        )
        self._consumers[partition] = consumer
        self._subscribed.set()
        consumer.start()
        self._has_begun(partition)
        while True:
            turn, point = consumer.turn, UNKNOWN
            self._take_back(partition)
            while consumer.turn == turn:
                entries = await consumer.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES)
                if point == UNKNOWN and consumer.turn == turn:
                    await _check_start(client, consumer, entries[0].message_id)
                for entry in entries:
                    events, point = read_new(entry, partition, point)
                    if events and consumer.turn == turn:
                        await self._hand_on(events)


async def _check_start(client: PulsarClient, consumer: Consumer, first: MessageId) -> None:
    """Make sure that a turn begins with the first event that is not committed.

    When turns change while the broker reads ahead for the last one, what it has read may be passed over (by the source
    of 4.2.4, where the end of that read overwrites the position that the change has just set back). Committing what
    comes next would make it so for good; a new subscription reads it.

    Raises:
        EndpointClosed: events were passed over.
    """
    committed = (await consumer.bounds()).acknowledged or EARLIEST
    if committed[:2] >= first[:2]:
        return  # whoever had the turn before has committed it meanwhile
    reader = await client.reader(consumer.topic, start=committed)
    try:
        entries = await reader.take(max_messages=1, max_bytes=1)
    finally:
        await reader.close()
    if entries[0].message_id[:2] < first[:2]:
        raise EndpointClosed(f"{consumer.topic}: delivery began at {first}, not at {entries[0].message_id}")
