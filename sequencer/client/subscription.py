"""A subscription: accepted events in order, over one life of connections after another.

Each life reads every partition from where the last one stopped: whole entries come again from the broker, and what has
been read of them is passed over. What is handed on is checked: the sequence of a partition's events has no gap and no
repeat, whatever happened in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, Self

from sequencer import SequencerError
from sequencer.client.lives import Lives, pulsar_client
from sequencer.client.recorded import Stored, read_new, recorded
from sequencer.client.values import END, Checkpoint, Codec, From, PartitionPoint, Recorded, StoreSettings, T
from sequencer.names import Topics
from sequencer.pulsar.client import EARLIEST, PulsarClient
from sequencer.pulsar.frames import MessageId

QUEUED_ENTRIES = 16
"""Entries, of all partitions together, that are opened and wait to be taken."""

TAKE_MESSAGES = 1_000
TAKE_BYTES = 1024 * 1024
"""What is taken from a partition's reader in one go, unless one entry alone is more."""

FROM_THE_START = PartitionPoint(0, EARLIEST)


class Subscription(Generic[T]):
    """An asynchronous iterator over accepted events. Made by `EventStore.subscribe`.

    Within a partition, and so for an aggregate, events come in order; partitions are interleaved. It begins with
    `async with`, or with the first event that is asked for; either may raise PulsarError. Later a lost connection is
    invisible apart from the time.

    Attributes:
        checkpoint: after the last event that was given out.
    """

    def __init__(
        self,
        settings: StoreSettings,
        topics: Topics,
        partitions: Iterable[int],
        start: From | Checkpoint,
        codec: Codec[T],
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._codec = codec
        known = start.points if isinstance(start, Checkpoint) else {}
        default = None if start is END else FROM_THE_START
        self._points: dict[int, PartitionPoint | None] = {n: known.get(n, default) for n in partitions}
        """How far each partition has been read; None: its end is not known yet, at which it begins."""
        self.checkpoint = Checkpoint(dict(known))
        self._queue: deque[list[Stored] | SequencerError] = deque()
        self._taken: deque[Stored] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._reading: set[int] = set()
        self._lives = Lives("subscription", self._one_life, self._have_ended)
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await self._lives.start()
        except BaseException:
            # Cancelled, say: nobody would end it, and as a member of a group it would keep partitions to itself.
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Recorded[T]:
        """The next event.

        Raises:
            SequenceGap: events are missing or come twice; the subscription has ended.
            Undecodable: the codec does not take this event; the next call gives the one after it. Where an entry is
                damaged, or was not written by a sequencer, the subscription has ended.
            PulsarError: the subscription could not begin.
        """
        if self._closed:
            raise StopAsyncIteration
        await self._lives.start()
        while not self._taken:
            arrived = await self._next_entry()
            if isinstance(arrived, SequencerError):
                await self.close()
                raise arrived
            self._taken.extend(arrived)
        event = self._taken.popleft()
        checkpoint = self.checkpoint.after(event.partition, PartitionPoint(event.sequence + 1, event.position))
        found = recorded(event, checkpoint, self._codec)
        self.checkpoint = checkpoint  # not past an event that was not given out
        return found

    async def close(self) -> None:
        """End it; what has been read ahead is dropped."""
        self._closed = True
        self._taken.clear()
        self._queue.clear()
        self._arrived.set()
        await self._lives.close()

    # --- The inside ---

    def _have_ended(self) -> None:
        """There will be no further life: whoever waits must see it."""
        self._arrived.set()

    async def _next_entry(self) -> list[Stored] | SequencerError:
        """The next entry, or why there is none. A caller that is cancelled meanwhile loses nothing."""
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            if not self._lives.running:
                raise self._lives.failure or StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._room.set()
        return self._queue.popleft()

    async def _hand_on(self, item: list[Stored] | SequencerError) -> None:
        while len(self._queue) >= QUEUED_ENTRIES:
            self._room.clear()
            await self._room.wait()
        self._queue.append(item)
        self._arrived.set()

    def _take_back(self, partition: int) -> None:
        """Drop what has been read of a partition and not been given out."""
        self._taken = deque(event for event in self._taken if event.partition != partition)
        kept = [item for item in self._queue if isinstance(item, SequencerError) or item[0].partition != partition]
        self._queue = deque(kept)
        self._room.set()

    async def _one_life(self) -> None:
        self._reading.clear()
        async with pulsar_client(self._settings) as client, asyncio.TaskGroup() as life:
            for partition in self._points:
                life.create_task(self._read_or_tell(client, partition))

    async def _read_or_tell(self, client: PulsarClient, partition: int) -> None:
        try:
            await self._read(client, partition)
        except SequencerError as wrong:
            await self._hand_on(wrong)

    async def _read(self, client: PulsarClient, partition: int) -> None:
        """Read a partition from where it has been read to, until the connection is lost or something is wrong."""
        topic = self._topics.events_partition(partition)
        point = self._points[partition]
        if point is None:
            point = self._points[partition] = await _end_of(client, topic)
            self.checkpoint = self.checkpoint.after(partition, point)
        reader = await client.reader(topic, start=point.position, inclusive=True)
        self._has_begun(partition)
        while True:
            for entry in await reader.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES):
                events, point = read_new(entry, partition, point)
                if events:
                    await self._hand_on(events)
                self._points[partition] = point

    def _has_begun(self, partition: int) -> None:
        self._reading.add(partition)
        if len(self._reading) == len(self._points):
            self._lives.begun()


async def _end_of(client: PulsarClient, topic: str) -> PartitionPoint:
    """The point after the last event that can be read now."""
    reader = await client.reader(topic)
    last: MessageId = await reader.last_message_id()
    await reader.close()
    return PartitionPoint(None, last) if last.ledger >= 0 else FROM_THE_START
