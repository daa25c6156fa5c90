"""Fills `events`-0 as a sequencer would have over hours, in as little time as the broker takes to store it."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from bench.numbered import event_id
from bench.workload import SENDS_IN_FLIGHT, batch
from sequencer.event import accepted_properties
from sequencer.packing import Output
from sequencer.pulsar import producer as producer_module
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import MessageId
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata
from state.index import IndexLimits

ENTRY_EVENTS = 1_000
PAYLOAD = b'{"id":"00000000-0000-4000-8000-000000000000","version":null,"data":{"note":"%b"}}' % (b"x" * 80)
SEED = 4


class Filling(NamedTuple):
    """What is written."""

    events: int
    aggregates: int
    window_percent: int
    """Events that are younger than the id window when the last one is written."""

    @property
    def span_ms(self) -> int:
        """From the first event to the last, evenly."""
        return IndexLimits().id_window_ms * 100 // self.window_percent

    def entries(self) -> Iterator[Output]:
        """Every aggregate once, then aggregates at random, as `accepted_message` and `pack` write them."""
        chance = random.Random(SEED)
        versions = array("q", [-1]) * self.aggregates
        parts: list[tuple[bytes, bytes]] = []
        for sequence in range(self.events):
            aggregate = sequence if sequence < self.aggregates else chance.randrange(self.aggregates)
            versions[aggregate] += 1
            single = SingleMessageMetadata(partition_key=f"aggregate-{aggregate}", payload_size=len(PAYLOAD))
            submission = f"7:{sequence // ENTRY_EVENTS}:0:{sequence % ENTRY_EVENTS}"
            properties = accepted_properties(event_id(sequence), versions[aggregate], sequence, submission)
            parts.append((single.SerializeToString() + properties, PAYLOAD))
            if len(parts) == ENTRY_EVENTS:
                yield batch(parts)
                parts = []
        if parts:
            yield batch(parts)


class PastClock:
    """In place of the producers' clock: the id window is told by the publish time, and hours must pass in a minute."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000


@contextmanager
def ago(span_ms: int) -> Iterator[PastClock]:
    """Everything that this process publishes is published so long ago, until the clock is put forward.

    Also the very first message of a topic must be: the broker looks there first when it is asked for a time.
    """
    clock = PastClock(time.time_ns() // 1_000_000 - span_ms)
    with patch.object(producer_module, "time", clock):
        yield clock


async def fill(service_url: str, topic: str, filling: Filling, clock: PastClock) -> None:
    """Write all of it, the first event at the time that the clock shows, the last one `span_ms` later."""
    began_ms = clock.now_ms
    pending: deque[asyncio.Future[MessageId]] = deque()
    async with PulsarClient(service_url) as client:
        producer = await client.producer(topic)
        written = 0
        for output in filling.entries():
            clock.now_ms = began_ms + filling.span_ms * written // filling.events
            pending.append(producer.send(*output))
            written += output.num_messages
            if len(pending) >= SENDS_IN_FLIGHT:
                await pending.popleft()
        await asyncio.gather(*pending)
