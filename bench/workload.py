"""What is submitted: structured events of a fixed size, spread over aggregates, in batches of a fixed length."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sequencer.event import REPLY_TO
from sequencer.packing import Output
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.client import Producer
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

SENDS_IN_FLIGHT = 64


@dataclass(frozen=True)
class Workload:
    """One partition's input.

    Conflicts are events whose expected version is one behind: each is rejected with wrong_expected_version.
    """

    events: int
    event_bytes: int = 160
    """Payload of one event, bytes."""
    aggregates: int = 100_000
    conflict_percent: int = 0
    batch_messages: int = 500
    """Events per submitted batch."""
    reply_to: str = ""
    """The topic on which every event asks for a reply; empty where none does."""

    def asking(self, reply_to: str) -> Workload:
        """The same, with replies."""
        return replace(self, reply_to=reply_to)

    @property
    def conflicts(self) -> int:
        return sum(1 for number in range(self.events) if self._conflicts(number))

    def _conflicts(self, number: int) -> bool:
        # Every aggregate has got its first event before the first conflict.
        return number >= self.aggregates and number * self.conflict_percent % 100 < self.conflict_percent

    def batches(self) -> Iterator[Output]:
        """Every submitted entry, as `Producer.send` takes it."""
        tails = [-1] * self.aggregates
        parts: list[tuple[bytes, bytes]] = []
        for number in range(self.events):
            aggregate = number % self.aggregates
            expected = tails[aggregate]
            if self._conflicts(number):
                expected -= 1
            else:
                tails[aggregate] += 1
            parts.append(self._message(f"aggregate-{aggregate}", expected))
            if len(parts) == self.batch_messages:
                yield batch(parts, self.reply_to)
                parts = []
        if parts:
            yield batch(parts, self.reply_to)

    def _message(self, key: str, expected: int) -> tuple[bytes, bytes]:
        head = f'{{"id":"{uuid.uuid4()}","version":{expected},"data":{{"note":"'
        payload = (head + "x" * max(0, self.event_bytes - len(head) - 3) + '"}}').encode()
        single = SingleMessageMetadata(partition_key=key, payload_size=len(payload))
        return single.SerializeToString(), payload


def batch(parts: list[tuple[bytes, bytes]], reply_to: str = "") -> Output:
    """One entry of so many messages, each its serialized SingleMessageMetadata and its payload."""
    payload = join_batch(parts)
    metadata = MessageMetadata(num_messages_in_batch=len(parts), uncompressed_size=len(payload))
    if reply_to:
        metadata.properties.add(key=REPLY_TO, value=reply_to)
    return Output(metadata.SerializePartialToString(), payload, len(parts))


class Loaded(NamedTuple):
    """What stands in the topic."""

    accepted: int
    """Events that are not conflicts."""
    last_payload: bytes
    """The last entry's."""


async def load(producer: Producer, workload: Workload) -> Loaded:
    """Store the whole workload, with a bounded number of entries in flight."""
    pending: deque[asyncio.Future[Any]] = deque()
    last_payload = b""
    for output in workload.batches():
        pending.append(producer.send(*output))
        last_payload = output.payload
        if len(pending) >= SENDS_IN_FLIGHT:
            await pending.popleft()
    await asyncio.gather(*pending)
    return Loaded(workload.events - workload.conflicts, last_payload)
