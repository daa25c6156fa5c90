"""RECOVER: the version index is brought to the exact end of `events`-n.

`events` is the only source of truth. The index remembers up to which entry it has followed it (the checkpoint), reads
on from there, and is level. Where there is no checkpoint it starts anew from the compacted view, which holds the last
event of every aggregate, and fills the id window from the events of the last minutes.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from sequencer import NeedsOperator
from sequencer.entries import ForeignWriter, StoredEvent, read_events
from sequencer.event import NO_AGGREGATE
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import EARLIEST, Entry, MessageId
from state.index import IndexDamaged, IndexHeld, VersionIndex

RECOVERY_BATCH_MESSAGES = 20_000
"""Events that are read before they are written to the index in one batch."""

RECOVERY_BATCH_BYTES = 8 * 1024 * 1024

PROGRESS_EVERY_EVENTS = 500_000

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """How far an index has followed `events`-n: the last entry it knows, and the sequence that comes next."""

    ledger: int
    entry: int
    next_sequence: int

    def to_bytes(self) -> bytes:
        return _CHECKPOINT.pack(*self)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Checkpoint | None:
        """None where it is not a checkpoint: then the index is as good as empty."""
        return cls(*_CHECKPOINT.unpack(stored)) if len(stored) == _CHECKPOINT.size else None

    @property
    def position(self) -> tuple[int, int]:
        return self.ledger, self.entry


_CHECKPOINT = struct.Struct(">qqq")
START = Checkpoint(-1, -1, 0)
NEVER = (2**63, 0)
"""A position that no event has."""


class IndexAhead(NeedsOperator):
    """The index knows events that the topic does not hold: it was lost, or is another one than before.

    Going on would give out versions that have been given out already, so somebody must look. Where the topic was made
    anew on purpose, deleting the index directory is all that is needed.
    """


@contextmanager
def open_index(directory: Path, *, identity: str) -> Iterator[VersionIndex]:
    """The partition's index; an empty one where it is missing, damaged, or was never completed.

    Where somebody else on this host holds it (a frozen predecessor, say) a private one is built, so that nobody's lock
    keeps a partition from its new owner. An index that proves useless while it is open is thrown away at the end.

    Raises:
        IndexMismatch: the directory holds something else: another partition's index, or no index.
        IndexUnavailable: it cannot be made, read or written.
    """
    useless = False
    _sweep(directory)
    try:
        index = _open_complete(directory, identity)
    except IndexHeld as held:
        directory = directory.with_name(f"{directory.name}.{os.getpid()}-{secrets.token_hex(4)}")
        log.info("%s; building a private one in %s", held, directory)
        index = _open_complete(directory, identity)
        useless = True
    try:
        yield index
    except IndexDamaged:
        useless = True
        raise
    finally:
        index.close()
        if useless:
            VersionIndex.destroy(directory)


def _sweep(directory: Path) -> None:
    """Remove the private indexes that processes which were killed have left; those in use are held."""
    for left in directory.parent.glob(f"{directory.name}.*"):
        with suppress(IndexHeld):
            VersionIndex.destroy(left)


def _open_complete(directory: Path, identity: str) -> VersionIndex:
    try:
        index = VersionIndex.open(directory, identity=identity)
        if checkpoint_of(index) is not None:
            return index
        index.close()
    except IndexDamaged as damaged:
        log.warning("%s; building it anew", damaged)
    VersionIndex.destroy(directory)
    return VersionIndex.open(directory, identity=identity)


async def last_position(client: PulsarClient, topic: str) -> tuple[int, int]:
    """The last readable message of a topic as (ledger, entry); (-1, -1) where there is none.

    It is the end only once every transaction that could still commit has ended.
    """
    reader = await client.reader(topic)
    try:
        last = await reader.last_message_id()
    finally:
        await reader.close()
    return last.ledger, last.entry


async def recover(client: PulsarClient, topic: str, index: VersionIndex) -> Checkpoint:
    """Bring the index to the end of `events`-n and say where that is.

    An index without a checkpoint may hold a part of an earlier rebuild: all of it is written again.

    Raises:
        ForeignWriter: a version or a sequence is missing, repeated or absent.
        PulsarError, IndexFailure: as they come; nothing is lost by starting again.
    """
    started = time.monotonic()
    end = await last_position(client, topic)
    stored = checkpoint_of(index)
    if stored is None:
        level = await _rebuild(client, topic, index, end)
    elif stored.position > end:
        raise IndexAhead(
            f"{topic} ends at {end[0]}:{end[1]}, but its index {index.directory} goes up to "
            f"{stored.ledger}:{stored.entry}: events were lost, or the topic was made anew (then delete the index)"
        )
    else:
        level = await _follow(client, topic, index, stored, end)
    behind = level.next_sequence - (stored or START).next_sequence
    seconds = time.monotonic() - started
    log.info("%s: index level at sequence %d after %.3f s, %d events", topic, level.next_sequence, seconds, behind)
    return level


async def keep_level(client: PulsarClient, topic: str, index: VersionIndex) -> NoReturn:
    """Follow `events`-n for as long as it is let, so that a standby's RECOVER has little left to do.

    Only what is committed is readable, so whatever it applies stays true. Where the topic ends is not known here: the
    owner's transactions are open.

    Raises: as `recover`, but for IndexAhead.
    """
    known = checkpoint_of(index)
    if known is None:
        known = await _rebuild(client, topic, index, await last_position(client, topic))
    await _follow(client, topic, index, known, NEVER)
    raise AssertionError("unreachable: no event stands at NEVER")


def checkpoint_of(index: VersionIndex) -> Checkpoint | None:
    return None if index.checkpoint is None else Checkpoint.from_bytes(index.checkpoint)


async def _follow(
    client: PulsarClient, topic: str, index: VersionIndex, known: Checkpoint, end: tuple[int, int]
) -> Checkpoint:
    """Apply every event after the checkpoint; each must be the next of its aggregate and of the partition."""
    if known.position >= end:
        return known
    async for entries in _read(client, topic, MessageId(*known.position), end):
        events = [event for entry in entries for event in read_events(entry)]
        aggregates = list({event.key for event in events})
        tails = dict(zip(aggregates, index.tails(aggregates), strict=True))
        sequence = known.next_sequence
        for event in events:
            _check(topic, event, tails[event.key] + 1, sequence)
            tails[event.key] = event.version
            sequence += 1
        known = Checkpoint(*entries[-1].message_id[:2], sequence)
        _apply(index, tails, events, known)
    return known


def _check(topic: str, event: StoredEvent, version: int, sequence: int) -> None:
    if event.version != version or event.sequence != sequence:
        raise ForeignWriter(
            f"{topic}, message {event.position}: version {event.version} of {event.key!r} at sequence "
            f"{event.sequence}, expected version {version} at sequence {sequence}; somebody else wrote there"
        )


async def _rebuild(client: PulsarClient, topic: str, index: VersionIndex, end: tuple[int, int]) -> Checkpoint:
    """Fill an empty index. The checkpoint is stored at the very end: half a rebuild is no index."""
    sequence = events_read = ids_read = newest_ms = 0
    if end != START.position:
        log.info("%s: rebuilding the index up to %s:%s", topic, *end)
        async for entries in _read(client, topic, EARLIEST, end, compacted=True):
            events = [event for entry in entries for event in read_events(entry)]
            tails: dict[str, int] = {}
            for event in events:
                # Compaction leaves gaps, so neither can be foreseen; but both can only rise.
                at_least = tails.get(event.key, NO_AGGREGATE) + 1
                _check(topic, event, max(event.version, at_least), max(event.sequence, sequence))
                tails[event.key] = event.version
                sequence = event.sequence + 1
                newest_ms = max(newest_ms, event.accepted_at_ms)
            _apply(index, tails, events, None)
            events_read = _progress(topic, events_read, len(events))
        # The window's clock is the log's: what waits since before a long standstill may be a retry of its last events.
        standstill_ms = max(0, time.time_ns() // 1_000_000 - newest_ms)
        rollback_s = (index.limits.id_window_ms + standstill_ms) // 1000 + 1
        async for entries in _read(client, topic, EARLIEST, end, rollback_s=rollback_s):
            events = [event for entry in entries for event in read_events(entry)]
            _apply(index, {}, events, None)
            ids_read = _progress(topic, ids_read, len(events))
        log.info("%s: index rebuilt from %d events and %d ids", topic, events_read, ids_read)
    known = Checkpoint(*end, sequence)
    index.apply({}, {}, accepted_at_ms=0, checkpoint=known.to_bytes())
    return known


def _progress(topic: str, count: int, more: int) -> int:
    if (count + more) // PROGRESS_EVERY_EVENTS > count // PROGRESS_EVERY_EVENTS:
        log.info("%s: %d events read", topic, count + more)
    return count + more


def _apply(
    index: VersionIndex, tails: dict[str, int], events: Sequence[StoredEvent], checkpoint: Checkpoint | None
) -> None:
    if events:
        index.apply(
            tails,
            [(event.event_id, event.key, event.version, event.sequence) for event in events],
            accepted_at_ms=events[-1].accepted_at_ms,
            checkpoint=None if checkpoint is None else checkpoint.to_bytes(),
        )


async def _read(
    client: PulsarClient,
    topic: str,
    after: MessageId,
    end: tuple[int, int],
    *,
    compacted: bool = False,
    rollback_s: int = 0,
) -> AsyncIterator[list[Entry]]:
    """Everything after a position up to and including the end, as it comes."""
    reader = await client.reader(topic, start=after, read_compacted=compacted, rollback_s=rollback_s)
    try:
        # A reader that starts by time may start after the end, and would wait there for ever.
        start = (await reader.bounds()).acknowledged
        while start is None or start[:2] < end:
            entries = await reader.take(max_messages=RECOVERY_BATCH_MESSAGES, max_bytes=RECOVERY_BATCH_BYTES)
            yield [entry for entry in entries if entry.message_id[:2] <= end]
            if entries[-1].message_id[:2] >= end:
                return
    finally:
        await reader.close()
