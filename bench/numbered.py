"""Submissions that are numbered: number n has an id made of n and expects what it must. Pure.

Without conflicts, submission n becomes the event with sequence n. So whoever reads `events` sees at once whether one
was lost, doubled or moved, and a publisher can send any of them again.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.workload import batch
from sequencer.entries import StoredEvent
from sequencer.packing import Output
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata

BATCHES_PER_S = 200
"""Of an open-loop load: a publisher that sends every 5 ms what has come up since."""


class Numbered(NamedTuple):
    """Which numbers belong together: aggregates take turns, so that number n is event n // aggregates of its one."""

    aggregates: int
    event_bytes: int
    """Payload of one event, bytes."""
    batch_events: int

    def output(self, number: int) -> Output:
        """The `number`th batch, as `Producer.send` takes it."""
        first = number * self.batch_events
        return batch([self._message(n) for n in range(first, first + self.batch_events)])

    def _message(self, number: int) -> tuple[bytes, bytes]:
        turn, aggregate = divmod(number, self.aggregates)
        head = f'{{"id":"{event_id(number)}","version":{turn - 1},"data":{{"note":"'
        payload = (head + "x" * max(0, self.event_bytes - len(head) - 3) + '"}}').encode()
        single = SingleMessageMetadata(partition_key=f"aggregate-{aggregate}", payload_size=len(payload))
        return single.SerializeToString(), payload


def at_rate(rate: int) -> Numbered:
    """Events of 160 bytes for 100,000 aggregates, so many per second."""
    return Numbered(aggregates=100_000, event_bytes=160, batch_events=rate // BATCHES_PER_S)


def event_id(number: int) -> str:
    """A UUID of version 4 that holds the number."""
    return f"00000000-0000-4000-8000-{number:012x}"


def check(event: StoredEvent, number: int) -> None:
    """Raises RuntimeError unless the event is that of submission `number`, in its place."""
    found = int.from_bytes(event.event_id[-6:], "big")
    if event.sequence != number or found != number:
        raise RuntimeError(f"message {event.position}: submission {found} has sequence {event.sequence}, not {number}")
