"""A turn in a group: it begins with the first event that is not committed, or the life ends. With stand-ins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sequencer.client.group import _check_start
from sequencer.pulsar.errors import EndpointClosed
from sequencer.pulsar.events import LastMessage
from sequencer.pulsar.frames import Entry, MessageId
from tests.submitted import sent_metadata

LAST = MessageId(9, 9, 0)


class Topic:
    """A consumer of a topic with entries 9:0 to 9:9, and the client that makes a reader of the same."""

    topic = "events-partition-0"

    def __init__(self, committed: int) -> None:
        self.committed = committed
        self.readers = 0

    async def bounds(self) -> LastMessage:
        return LastMessage(LAST, MessageId(9, self.committed, 0) if self.committed >= 0 else None)

    async def reader(self, topic: str, *, start: MessageId) -> Topic:
        assert topic == self.topic
        self.readers += 1
        self.after = start.entry
        return self

    async def take(self, **limits: int) -> list[Entry]:
        return [Entry(MessageId(9, self.after + 1, 0), sent_metadata(), b"", 0, (), "")]

    async def close(self) -> None:
        self.readers -= 1


def check(committed: int, first: int) -> Topic:
    stand: Any = Topic(committed)
    asyncio.run(_check_start(stand, stand, MessageId(9, first, 0)))
    assert stand.readers == 0
    return stand  # type: ignore[no-any-return]


@pytest.mark.parametrize(("committed", "first"), [(-1, 0), (3, 4), (3, 3), (7, 4)])
def test_a_turn_that_begins_where_it_should(committed: int, first: int) -> None:
    check(committed, first)


@pytest.mark.parametrize(("committed", "first"), [(-1, 1), (3, 5), (3, 9)])
def test_a_turn_that_passes_events_over(committed: int, first: int) -> None:
    with pytest.raises(EndpointClosed, match=f"began at 9:{first}.*not at 9:{committed + 1}"):
        check(committed, first)
