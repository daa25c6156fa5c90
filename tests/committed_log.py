"""The committed content of `events`-n as a list of entries, with just enough of a client for `recover` to read it.

It stands in for a broker where recovery is to be tried at every point of a history, hundreds of times per second. What
a real broker answers is the integration tests' subject.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sequencer.decide import Decided
from sequencer.pulsar.batches import decompress, join_batch, split_batch
from sequencer.pulsar.errors import ConnectionLost
from sequencer.pulsar.events import LastMessage
from sequencer.pulsar.frames import EARLIEST, Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.judged import outputs
from tests.submitted import delivered

LEDGER = 20
MARKERS = 3
"""Positions between two entries: markers and aborted entries take some."""


class CommittedLog:
    """In place of a PulsarClient.

    Attributes:
        entries: what is committed, in order.
        now_ms: the broker's clock.
        compacted_up_to: how many of the entries compaction has seen.
        entries_per_take: how many a reader gets at once.
        takes_left: how many more takes succeed before the connection is lost; None: all.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now_ms = time.time_ns() // 1_000_000
        self.compacted_up_to = 0
        self.entries_per_take = 3
        self.takes_left: int | None = None

    def commit(self, decided: Decided, max_message_bytes: int) -> MessageId | None:
        """Store the accepted events of a batch, as the partition would send them; the position of the last entry."""
        events = outputs(decided.outcomes, max_message_bytes).events
        for output in events:
            self.append(delivered(output, publish_time=self.now_ms))
        return self.end if events else None

    def append(self, entry: Entry) -> None:
        self.entries.append(entry._replace(message_id=MessageId(LEDGER, len(self.entries) * (1 + MARKERS), 0)))

    @property
    def end(self) -> MessageId:
        return self.entries[-1].message_id if self.entries else EARLIEST

    async def reader(
        self,
        topic: str,
        *,
        start: MessageId = EARLIEST,
        inclusive: bool = False,
        read_compacted: bool = False,
        rollback_s: int = 0,
    ) -> LogReader:
        assert not inclusive
        entries = compacted(self.entries, self.compacted_up_to) if read_compacted else self.entries
        since_ms = self.now_ms - rollback_s * 1000 if rollback_s else 0
        return LogReader(
            self, [one for one in entries if one.message_id[:2] > start[:2] and one.metadata.publish_time >= since_ms]
        )


class LogReader:
    """In place of a Consumer."""

    def __init__(self, log: CommittedLog, entries: Sequence[Entry]) -> None:
        self._log = log
        self._left = list(entries)

    async def take(self, *, max_messages: int, max_bytes: int) -> list[Entry]:
        assert max_messages > 0
        assert max_bytes > 0
        if self._log.takes_left is not None:
            if self._log.takes_left == 0:
                raise ConnectionLost("the broker is gone")
            self._log.takes_left -= 1
        count = self._log.entries_per_take
        taken, self._left = self._left[:count], self._left[count:]
        assert taken, "a real reader would wait here for ever"
        return taken

    async def last_message_id(self) -> MessageId:
        return self._log.end

    async def bounds(self) -> LastMessage:
        before = self._left[0].message_id if self._left else self._log.end
        acknowledged = before if not self._left else MessageId(before.ledger, before.entry - 1, before.partition)
        return LastMessage(self._log.end, acknowledged)

    async def close(self) -> None:
        pass


def compacted(entries: Sequence[Entry], count: int) -> list[Entry]:
    """How a compacted reader sees the log: of the first `count` entries, only the last event of each key."""
    last = {single.partition_key: (n, i) for n in range(count) for i, (single, _) in enumerate(opened(entries[n]))}
    view = []
    for n in range(count):
        messages = opened(entries[n])
        kept = [last[single.partition_key] == (n, i) for i, (single, _) in enumerate(messages)]
        if any(kept):
            view.append(_without(entries[n], messages, kept))
    return view + list(entries[count:])


def opened(entry: Entry) -> list[tuple[SingleMessageMetadata, bytes]]:
    metadata = entry.metadata
    payload = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, 2**30)
    return [(single, body) for single, _, body in split_batch(payload, metadata.num_messages_in_batch)]


def _without(entry: Entry, messages: Sequence[tuple[SingleMessageMetadata, bytes]], kept: Sequence[bool]) -> Entry:
    """The entry as compaction writes it again: what is taken out leaves a flag in its place."""
    parts = [
        (single.SerializeToString(), body)
        if keep
        else (SingleMessageMetadata(payload_size=0, compacted_out=True).SerializeToString(), b"")
        for (single, body), keep in zip(messages, kept, strict=True)
    ]
    metadata = MessageMetadata()
    metadata.CopyFrom(entry.metadata)
    metadata.ClearField("compression")
    payload = join_batch(parts)
    metadata.uncompressed_size = len(payload)
    return entry._replace(metadata=metadata, payload=payload)
