"""What is submitted: events of a fixed size for aggregates drawn at random, in batches of a fixed length.

Written by hand, byte by byte as the official clients write it, because a run of some seconds must not wait for minutes
until its topic is full.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sequencer.event import NO_AGGREGATE, REPLY_TO, canonical_partition
from sequencer.packing import Output
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.client import Producer
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

SENDS_IN_FLIGHT = 64
"""Of batches; of single messages SINGLES_IN_FLIGHT."""

SINGLES_IN_FLIGHT = 1_000
SEED = 6

ATTRIBUTES = (b"type", b"source", b"correlationid")
"""As in CloudEvents. The first two say the same of every event, the third is another one for each."""

Mode = Literal["structured", "binary"]


@dataclass(frozen=True)
class Workload:
    """What every partition is filled with."""

    events: int
    """In each partition."""
    event_bytes: int = 160
    """Payload of one event, bytes."""
    aggregates: int = 100_000
    """In all partitions together. Every event is one's that is drawn at random, each as likely as any other."""
    conflict_percent: int = 0
    """Of the events: their expected version is not the current one, and each is rejected."""
    batch_messages: int = 500
    """Events per submitted batch; 1: messages that are in no batch at all."""
    mode: Mode = "structured"
    existing: bool = False
    """Whether every aggregate has one event already, which the index holds before the sequencer starts."""
    reply_to: str = ""
    """The topic on which every event asks for a reply; empty where none does."""
    attributes: int = 0
    """How many of ATTRIBUTES every event has, as properties of its message."""

    def asking(self, reply_to: str) -> Workload:
        """The same, with replies."""
        return replace(self, reply_to=reply_to)

    @property
    def conflicts(self) -> int:
        """Events of a partition that are rejected."""
        return ((self.events - 1) * self.conflict_percent // 100 + 1) if self.conflict_percent else 0

    def _conflicts(self, number: int) -> bool:
        return number * self.conflict_percent % 100 < self.conflict_percent

    def aggregates_of(self, partition: int, partitions: int) -> Sequence[int]:
        """The numbers of those that belong to a partition."""
        every = range(self.aggregates)
        if partitions == 1:
            return every
        return array("l", (n for n in every if canonical_partition(key_of(n), partitions) == partition))

    def batches(self, partition: int = 0, partitions: int = 1) -> Iterator[Output]:
        """Every entry submitted to a partition, as `Producer.send` takes it."""
        chance = random.Random(SEED + partition)
        numbers = self.aggregates_of(partition, partitions)
        tails = array("l", [NO_AGGREGATE + self.existing]) * len(numbers)
        message = _structured if self.mode == "structured" else _binary
        positions = range(len(numbers))
        for first in range(0, self.events, self.batch_messages):
            count = min(self.batch_messages, self.events - first)
            drawn = chance.choices(positions, k=count)
            # Random where an index sorts them by, numbered where they must differ.
            noise = chance.randbytes(4 * count).hex().encode()
            parts = []
            for number, position in enumerate(drawn, first):
                tail = tails[position]
                if not self._conflicts(number):
                    tails[position] = tail + 1
                elif tail == NO_AGGREGATE:
                    tail = 0  # ahead, where nothing is behind
                else:
                    tail -= 1
                place = (number - first) * 8
                event_id = b"%b-0000-4000-8000-%012x" % (noise[place : place + 8], number)
                attributes = _attributes(self.attributes, event_id) if self.attributes else b""
                key = key_of(numbers[position]).encode()
                parts.append(message(key, event_id, tail, number, self.event_bytes, attributes))
            yield batch(parts, self.reply_to) if self.batch_messages > 1 else _single(*parts[0], self.reply_to)


def key_of(number: int) -> str:
    """An aggregate's."""
    return f"aggregate-{number}"


def _structured(
    key: bytes, event_id: bytes, expected: int, number: int, size: int, attributes: bytes
) -> tuple[bytes, bytes]:
    """A serialized SingleMessageMetadata, and a payload of `size` bytes or a little more."""
    head = b'{"id":"%b","version":%d,"data":{"note":"' % (event_id, expected)
    payload = b'%b%b"}}' % (head, b"x" * (size - len(head) - 3))
    return _metadata(attributes, key, len(payload), number), payload


def _binary(
    key: bytes, event_id: bytes, expected: int, number: int, size: int, attributes: bytes
) -> tuple[bytes, bytes]:
    properties = _property(b"id", event_id) + _property(b"version", b"%d" % expected) + attributes
    return _metadata(properties, key, size, number), b"\x00" * size


def _attributes(count: int, event_id: bytes) -> bytes:
    values = (b"OrderPlaced", b"/bench/orders", event_id)
    return b"".join(map(_property, ATTRIBUTES[:count], values))


def _property(name: bytes, value: bytes) -> bytes:
    return b"\n%c\n%c%b\x12%c%b" % (len(name) + len(value) + 4, len(name), name, len(value), value)


def _metadata(properties: bytes, key: bytes, size: int, number: int) -> bytes:
    """Fields 1, 2, 3 and 8: the official clients number their messages inside a batch too."""
    return b"%b\x12%c%b\x18%b\x40%b" % (properties, len(key), key, _varint(size), _varint(number))


def _varint(number: int) -> bytes:
    if number < 1 << 7:
        return b"%c" % number
    if number < 1 << 14:
        return b"%c%c" % (number & 127 | 128, number >> 7)
    if number < 1 << 21:
        return b"%c%c%c" % (number & 127 | 128, number >> 7 & 127 | 128, number >> 14)
    assert number < 1 << 28
    return b"%c%c%c%c" % (number & 127 | 128, number >> 7 & 127 | 128, number >> 14 & 127 | 128, number >> 21)


def _single(head: bytes, payload: bytes, reply_to: str) -> Output:
    """An entry that is no batch: what stands in the message's own metadata there stands in the entry's here."""
    single = SingleMessageMetadata.FromString(head)
    metadata = MessageMetadata(
        partition_key=single.partition_key, properties=single.properties, uncompressed_size=len(payload)
    )
    _ask(metadata, reply_to)
    return Output(metadata.SerializePartialToString(), payload, 1)


def batch(parts: list[tuple[bytes, bytes]], reply_to: str = "") -> Output:
    """One entry of so many messages, each its serialized SingleMessageMetadata and its payload."""
    payload = join_batch(parts)
    metadata = MessageMetadata(num_messages_in_batch=len(parts), uncompressed_size=len(payload))
    _ask(metadata, reply_to)
    return Output(metadata.SerializePartialToString(), payload, len(parts))


def _ask(metadata: MessageMetadata, reply_to: str) -> None:
    if reply_to:
        metadata.properties.add(key=REPLY_TO, value=reply_to)


class Loaded(NamedTuple):
    """What stands in a partition."""

    accepted: int
    """Events that are no conflicts."""
    last: Output


async def load(producer: Producer, workload: Workload, partition: int = 0, partitions: int = 1) -> Loaded:
    """Fill a partition, with a bounded number of entries in flight."""
    in_flight = SENDS_IN_FLIGHT if workload.batch_messages > 1 else SINGLES_IN_FLIGHT
    pending: deque[asyncio.Future[Any]] = deque()
    for output in workload.batches(partition, partitions):
        pending.append(producer.send(*output))
        if len(pending) >= in_flight:
            await pending.popleft()
    await asyncio.gather(*pending)
    return Loaded(workload.events - workload.conflicts, output)
