"""What a connection tells the producers and consumers that run on it."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.events import Answer
from sequencer.pulsar.frames import Entry, MessageId

ResultT = TypeVar("ResultT")


class ProducerPort(Protocol):
    """What a connection tells a producer."""

    def on_stored(self, sequence_id: int, message_id: MessageId) -> None: ...
    def on_send_refused(self, sequence_id: int, error: int, message: str) -> None: ...
    def on_closed(self, reason: PulsarError) -> None: ...


class ConsumerPort(Protocol):
    """What a connection tells a consumer."""

    def on_entry(self, entry: Entry, consumer_epoch: int) -> None: ...
    def on_turn_changed(self, active: bool) -> None: ...
    def on_closed(self, reason: PulsarError) -> None: ...


class Opening:
    """Stands in for a producer or consumer that is being opened, lest its end goes unnoticed meanwhile."""

    def __init__(self) -> None:
        self.closed: PulsarError | None = None
        self.has_turn = False
        self.answer: asyncio.Future[Answer] | None = None

    def on_stored(self, sequence_id: int, message_id: MessageId) -> None:
        """Nothing has been sent yet."""

    def on_send_refused(self, sequence_id: int, error: int, message: str) -> None:
        """Nothing has been sent yet."""

    def on_entry(self, entry: Entry, consumer_epoch: int) -> None:
        """No delivery has been allowed yet."""

    def on_turn_changed(self, active: bool) -> None:
        """The broker tells it before it answers, or later."""
        self.has_turn = active

    def on_closed(self, reason: PulsarError) -> None:
        """Whoever waits for the opening waits in vain."""
        self.closed = reason
        if self.answer is not None:
            fail(self.answer, reason)


def fail(future: asyncio.Future[ResultT], reason: PulsarError) -> None:
    """Fail `future` if it still waits. Nobody has to look at it: what has gone wrong is told by `lost` as well."""
    if not future.done():
        future.set_exception(reason)
        future.exception()
