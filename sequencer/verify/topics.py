"""What `sequencer verify` reads from Pulsar: topic partitions, round by round, and what is acknowledged."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from sequencer import SequencerError
from sequencer.admin import Admin
from sequencer.names import SUBSCRIPTION
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.consumer import Consumer
from sequencer.pulsar.frames import EARLIEST, Entry, MessageId
from sequencer.verify.verifier import Acknowledged

TAKE_MESSAGES = 20_000
TAKE_BYTES = 8 * 1024 * 1024

STALL_LIMIT_S = 90.0
"""For the next entry of a topic that says it has one; longer than the 30 s for which loading a topic can stall."""


class ReadStalled(SequencerError):
    """The broker did not deliver what it says it has."""


class SubscriptionMissing(SequencerError):
    """Nobody has ever run `sequencer init` here, or the subscription was deleted."""


class TopicLog:
    """One topic partition: first it is asked where it ends, then read up to there, and then again.

    Attributes:
        position: the last entry that was read.
    """

    def __init__(self, client: PulsarClient, topic: str) -> None:
        self.topic = topic
        self.position = EARLIEST
        self._end = EARLIEST
        self._client = client
        self._reader: Consumer | None = None

    async def find_end(self) -> None:
        """Fix where the next `read` stops. Nothing is delivered for that. Raises: PulsarError."""
        if self._reader is None:
            self._reader = await self._client.reader(self.topic, start=self.position)
        self._end = await self._reader.last_message_id()

    async def read(self, feed: Callable[[Entry], None]) -> None:
        """Hand over every entry up to the end that was found.

        Raises:
            PulsarError: `read` may be called again after another `find_end`: no entry is handed over twice.
            ReadStalled: the next entry did not come.
        """
        if self.position[:2] >= self._end[:2]:
            return
        assert self._reader is not None
        while self.position[:2] < self._end[:2]:
            for entry in await self._take(self._reader):
                if entry.message_id[:2] <= self._end[:2]:
                    feed(entry)
                    self.position = entry.message_id
                else:
                    self.position = max(self.position, self._end)
        await self.let_go()

    async def let_go(self) -> None:
        """End the reader: one that has begun to read goes on filling its buffer."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _take(self, reader: Consumer) -> list[Entry]:
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                return await reader.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES)
        except TimeoutError:
            at, end = (f"{position.ledger}:{position.entry}" for position in (self.position, self._end))
            raise ReadStalled(
                f"{self.topic}: nothing arrived after {at} within {STALL_LIMIT_S:.0f} s, although it ends at {end}"
            ) from None


class Extent:
    """How many entries a topic partition holds, for a progress bar.

    Args:
        stats: the broker's internal statistics of it.
    """

    def __init__(self, stats: dict[str, Any]) -> None:
        ledgers = stats["ledgers"]
        self.entries: int = stats["numberOfEntries"]
        self._ledgers = [ledger["ledgerId"] for ledger in ledgers]
        self._before = list(accumulate((ledger["entries"] for ledger in ledgers), initial=0))

    def after(self, position: MessageId) -> int:
        """How many of them lie after a position; markers and aborted entries count too."""
        return self.entries - self._up_to(position)

    def between(self, position: MessageId, later: MessageId) -> int:
        """How many lie after a position, up to a later one."""
        return self._up_to(later) - self._up_to(position)

    def _up_to(self, position: MessageId) -> int:
        at = bisect_right(self._ledgers, position.ledger) - 1
        return 0 if at < 0 else min(self._before[at] + position.entry + 1, self.entries)


def internal_stats(admin: Admin, topic: str) -> dict[str, Any]:
    """Raises: AdminFailed."""
    stats: dict[str, Any] = admin.get(f"v2/{topic.replace('://', '/')}/internalStats")
    return stats


def acknowledged_of(stats: dict[str, Any], topic: str) -> Acknowledged:
    """What the subscription has acknowledged, open transactions left out.

    Raises: SubscriptionMissing.
    """
    cursor = stats["cursors"].get(SUBSCRIPTION)
    if cursor is None:
        raise SubscriptionMissing(f"{topic} has no subscription {SUBSCRIPTION!r}: sequencer init makes it")
    return Acknowledged(_position(cursor["markDeletePosition"]), _ranges(cursor["individuallyDeletedMessages"]))


def _position(text: str) -> MessageId:
    ledger, entry = text.split(":")
    return MessageId(int(ledger), int(entry))


def _ranges(text: str) -> list[tuple[MessageId, MessageId]]:
    """It reads "[(5:1..5:3], (5:7..5:9]]"."""
    pairs = [part.strip(" ,(") for part in text.strip("[]").split("]")]
    return [(_position(first), _position(last)) for first, last in (pair.split("..") for pair in pairs if pair)]
