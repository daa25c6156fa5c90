"""An onlooker at `events`-0: sees every entry as it is delivered, checks it, and notices when the owner changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from bench.load import LoadProcess
from bench.numbered import Numbered, check
from sequencer.broker import EmbeddedBroker
from sequencer.entries import read_events
from sequencer.names import Topics
from sequencer.pulsar.client import EARLIEST, PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.frames import Entry

TAKE_MESSAGES = 20_000
TAKE_BYTES = 64 * 1024 * 1024
STUCK_AFTER_S = 180.0
LEVEL_WITHIN_S = 0.5
"""The owner is level with the load when what is due now has been committed this much later."""

COME_BACK_EVERY_S = 0.02
"""How often it tries to connect while the broker is gone."""


class Sighting(NamedTuple):
    """The first entry that a new owner has committed: when it was delivered, by `time.perf_counter` and Unix time."""

    at_s: float
    wall_s: float


class Watch:
    """Reads from the first event on. It is woken by delivery, not by looking.

    An entry of a new owner is told from one that its predecessor still committed by its producer's name: every
    producer has another one.
    """

    def __init__(self, service_url: str, topic: str) -> None:
        self._service_url = service_url
        self._topic = topic
        self._owners: list[str] = []
        self._arrived = asyncio.Event()
        self._successor: asyncio.Future[Sighting] | None = None
        self.events = 0
        """Events seen so far, and so the sequence that comes next."""

    async def run(self) -> None:
        """Watch for ever.

        Raises:
            RuntimeError: an event is not the next one, or an owner that had a successor has committed again.
        """
        position = EARLIEST
        while True:
            try:
                async with PulsarClient(self._service_url) as client:
                    reader = await client.reader(self._topic, start=position)
                    while True:
                        entries = await reader.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES)
                        now = Sighting(time.perf_counter(), time.time())
                        for entry in entries:
                            self._see(entry, now)
                        position = entries[-1].message_id
            except PulsarError:
                await asyncio.sleep(COME_BACK_EVERY_S)

    def successor(self) -> asyncio.Future[Sighting]:
        """Done when somebody else than the present owner has committed."""
        assert self._successor is None
        self._successor = asyncio.get_running_loop().create_future()
        return self._successor

    async def reach(self, events: int) -> None:
        """Return when so many events have been seen."""
        while self.events < events:
            self._arrived.clear()
            await self._arrived.wait()

    def _see(self, entry: Entry, now: Sighting) -> None:
        owner = entry.metadata.producer_name
        if not self._owners or owner != self._owners[-1]:
            if owner in self._owners:
                raise RuntimeError(f"message {entry.message_id}: an owner that had a successor has committed again")
            self._owners.append(owner)
            if self._successor is not None:
                self._successor.set_result(now)
                self._successor = None
        # Only the first of each entry: this runs beside what is measured. `check_all` looks at the others.
        check(next(read_events(entry)), self.events)
        self.events += entry.metadata.num_messages_in_batch
        self._arrived.set()


@contextlib.asynccontextmanager
async def watched_load(
    broker: EmbeddedBroker, topics: Topics, numbered: Numbered, rate: int
) -> AsyncIterator[tuple[Watch, LoadProcess]]:
    """Load on the partition, and an onlooker. At the end everything that was submitted must have been accepted."""
    watch = Watch(broker.service_url, topics.events_partition(0))
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch.run())
        load = LoadProcess(broker.service_url, topics.submitted_partition(0), numbered, rate=rate)
        try:
            yield watch, load
            events = await asyncio.to_thread(load.stop)
            async with asyncio.timeout(STUCK_AFTER_S):
                await watch.reach(events)
        finally:
            load.end()
            watching.cancel()
    await check_all(broker, topics, events)


async def check_all(broker: EmbeddedBroker, topics: Topics, submitted: int) -> None:
    """Every submission must have become the event in its place: none lost, none doubled, none moved.

    Raises:
        RuntimeError: it is not so.
    """
    async with PulsarClient(broker.service_url) as client:
        reader = await client.reader(topics.events_partition(0))
        end = await reader.last_message_id()
        number, position = 0, EARLIEST
        while position[:2] < end[:2]:
            for entry in await reader.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES):
                position = entry.message_id
                for event in read_events(entry):
                    check(event, number)
                    number += 1
    if number != submitted:
        raise RuntimeError(f"{submitted} were submitted, {number} accepted")


async def level(watch: Watch, load: LoadProcess) -> None:
    """Return when the owner keeps up with the load."""
    async with asyncio.timeout(STUCK_AFTER_S):
        while True:
            since_s = time.perf_counter()
            await watch.reach(load.due_events())
            if time.perf_counter() - since_s < LEVEL_WITHIN_S:
                return
