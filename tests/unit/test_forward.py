"""Where forwarded messages go, and in which order; client and producers are stand-ins here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sequencer.event import Forwarded, Submission
from sequencer.forward import Forwarder
from sequencer.names import Topics
from sequencer.packing import Output
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.frames import MessageId
from tests.judged import read_all
from tests.submitted import batch, delivered, listed, message, structured

LIMIT = 5 * 2**20


class Stand:
    """Client and producers in one: `opened` are the topics in order, `sent` the entries by topic."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.sent: dict[str, list[Output]] = {}

    async def producer(self, topic: str) -> Any:
        self.opened.append(topic)
        return StandProducer(self.sent.setdefault(topic, []))

    def payloads(self, topic: str) -> list[bytes]:
        return [body for one in self.sent[topic] for _, _, body in split_batch(one.payload, one.num_messages)]


class StandProducer:
    def __init__(self, sent: list[Output]) -> None:
        self._sent = sent

    def send(self, metadata: bytes, payload: bytes, num_messages: int) -> asyncio.Future[MessageId]:
        self._sent.append(Output(metadata, payload, num_messages))
        return asyncio.get_running_loop().create_future()

    async def drain(self) -> None:
        pass


def submissions(count: int) -> list[Submission]:
    read = read_all(batch([message(structured()) for _ in range(count)]))
    assert all(isinstance(one, Submission) for one in read)
    return [one for one in read if isinstance(one, Submission)]


def test_every_message_goes_to_its_home_in_order_and_outside_any_transaction() -> None:
    stand: Any = Stand()
    read = submissions(6)

    async def run() -> int:
        forwarder = Forwarder(stand, Topics("public/default"))
        first = await forwarder.send(
            [Forwarded(one, home) for one, home in zip(read, (2, 0, 2, 2, 0), strict=False)], LIMIT
        )
        second = await forwarder.send([Forwarded(read[5], 0)], LIMIT)
        return len(first) + len(second)

    assert asyncio.run(run()) == 3, "one entry for each home and round"
    home_0, home_2 = (Topics("public/default").submitted_partition(n) for n in (0, 2))
    assert stand.opened == [home_2, home_0], "each is opened once"
    assert stand.payloads(home_2) == [read[n].payload for n in (0, 2, 3)]
    assert stand.payloads(home_0) == [read[n].payload for n in (1, 4, 5)]


@pytest.mark.parametrize(("events", "property_bytes"), [(1000, 0), (15, 250_000)])
def test_lists_from_many_entries_find_room_at_home(events: int, property_bytes: int) -> None:
    """Each had room in the entry that it came in; packed into one, there would be none for the last."""
    payload = listed(*(f"event {n}" for n in range(events)))
    properties = {"mine": "x" * property_bytes}
    read = [one for _ in range(25) for one in read_all(batch([message(payload, properties=properties)]))]
    whole = [one for one in read if isinstance(one, Submission) and one.several]
    assert len(whole) == 25
    stand: Any = Stand()

    async def run() -> None:
        await Forwarder(stand, Topics("public/default")).send([Forwarded(one, 1) for one in whole], LIMIT)

    asyncio.run(run())
    (entries,) = stand.sent.values()
    copies = [one for output in entries for one in read_all(delivered(output))]
    assert [len(one.several or ()) for one in copies if isinstance(one, Submission)] == [events] * 25
    assert len(entries) < 25, "together as far as they fit"
