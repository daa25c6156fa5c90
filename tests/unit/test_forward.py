"""Where forwarded messages go, and in which order; client and producers are stand-ins here."""

from __future__ import annotations

import asyncio
from typing import Any

from sequencer.entries import read_entry
from sequencer.event import Forwarded, Submission
from sequencer.forward import Forwarder
from sequencer.names import Topics
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.frames import MessageId
from tests.submitted import batch, message, structured

LIMIT = 5 * 2**20


class Stand:
    """Client and producers in one: `opened` are the topics in order, `sent` the payloads by topic."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.sent: dict[str, list[bytes]] = {}

    async def producer(self, topic: str) -> Any:
        self.opened.append(topic)
        return StandProducer(self.sent.setdefault(topic, []))


class StandProducer:
    def __init__(self, sent: list[bytes]) -> None:
        self._sent = sent

    def send(self, metadata: bytes, payload: bytes, num_messages: int) -> asyncio.Future[MessageId]:
        self._sent.extend(body for _, _, body in split_batch(payload, num_messages))
        return asyncio.get_running_loop().create_future()

    async def drain(self) -> None:
        pass


def submissions(count: int) -> list[Submission]:
    read = read_entry(batch([message(structured()) for _ in range(count)]), LIMIT)
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
    assert stand.sent[home_2] == [read[n].payload for n in (0, 2, 3)]
    assert stand.sent[home_0] == [read[n].payload for n in (1, 4, 5)]
