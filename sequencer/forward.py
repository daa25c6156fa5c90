"""Forwarding: a message that arrived in a partition other than its key's own is sent on to that one.

The broker does not check how a publisher spreads keys over partitions, and the official clients hash differently by
default. The copy is sent outside the transaction, because a transaction that is open in another partition's input
would hold back everything that arrives there; the original is acknowledged inside it, after the copy's receipt. A
crash in between leaves a second copy, which ends as `duplicate` or as a conflict like every repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from sequencer.event import MAX_ENTRY_MESSAGES, MAX_LISTED_BYTES, Forwarded
from sequencer.names import Topics
from sequencer.packing import Messages, forwarded_message, pack
from sequencer.pulsar.client import Producer, PulsarClient
from sequencer.pulsar.frames import MessageId


class Forwarder:
    """Producers on the other partitions' inputs: opened when first needed, at most one for each."""

    def __init__(self, client: PulsarClient, topics: Topics) -> None:
        self._client = client
        self._topics = topics
        self._producers: dict[int, Producer] = {}

    async def send(self, messages: Sequence[Forwarded], max_message_bytes: int) -> list[asyncio.Future[MessageId]]:
        """Send every message to its home, in order, and return the futures of the receipts.

        Raises:
            PulsarError: a producer cannot be opened.
        """
        by_home: dict[int, list[Forwarded]] = {}
        for message in messages:
            by_home.setdefault(message.home, []).append(message)
        receipts: list[asyncio.Future[MessageId]] = []
        for home, going in by_home.items():
            producer = await self._producer(home)
            for together in _with_room(going):
                receipts.extend(producer.send(*output) for output in pack(together, max_message_bytes))
            await producer.drain()
        return receipts

    async def _producer(self, home: int) -> Producer:
        producer = self._producers.get(home)
        if producer is None:
            producer = await self._client.producer(self._topics.submitted_partition(home))
            self._producers[home] = producer
        return producer


def _with_room(messages: Sequence[Forwarded]) -> Iterator[list[Messages]]:
    """The copies, cut so that the lists of each part fit into one entry: at home more of them would be `too_large`."""
    part: list[Messages] = []
    listed_events = listed_bytes = 0
    for message in messages:
        copy, submission = forwarded_message(message), message.submission
        if submission.several:
            events = len(submission.several)
            grown = events * len(copy.heads[0]) + len(submission.payload)
            if listed_events + events > MAX_ENTRY_MESSAGES or listed_bytes + grown > MAX_LISTED_BYTES:
                yield part
                part, listed_events, listed_bytes = [], 0, 0
            listed_events, listed_bytes = listed_events + events, listed_bytes + grown
        part.append(copy)
    yield part
