"""The topics as `sequencer verify` has read them so far, and the verifier that was fed with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from sequencer import SequencerError
from sequencer.admin import Admin, AdminFailed
from sequencer.names import Topics, index_directory
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.frames import Entry
from sequencer.recovery import Checkpoint
from sequencer.verify.read import accepted_records, rejected_records, submitted_records
from sequencer.verify.report import Report
from sequencer.verify.tables import Tables
from sequencer.verify.topics import Extent, TopicLog, acknowledged_of, internal_stats
from sequencer.verify.verifier import Acknowledged, Verifier, parse_message_id
from state.peek import peek_index

ROUND_ATTEMPTS = 5
"""A topic that moves to another broker ends its readers: they are opened again."""
RETRY_DELAY_S = 1.0

ShowProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much. Called from one thread at a time."""

Feed = Callable[[int, Entry], None]


class NoIndex(SequencerError):
    """The index directory holds no index of these topics."""


class Inspection:
    """One verification.

    Args:
        chosen: the partitions to verify, of `count`.
        tables: where the verifier remembers things.

    Attributes:
        notes: what could not be checked, in words.
    """

    def __init__(
        self,
        client: PulsarClient,
        admin: Admin,
        topics: Topics,
        chosen: tuple[int, ...],
        count: int,
        tables: Tables,
        show: ShowProgress,
    ) -> None:
        self.notes: list[str] = []
        self._verifier = Verifier(tables=tables)
        self._admin = admin
        self._topics = topics
        self._chosen = chosen
        # The copy of a message that was forwarded may be in any partition.
        self._inputs = {n: TopicLog(client, topics.submitted_partition(n)) for n in range(count)}
        self._events = {n: TopicLog(client, topics.events_partition(n)) for n in chosen}
        self._rejected = {n: TopicLog(client, topics.rejected_partition(n)) for n in chosen}
        self._show = show
        self._indexes: dict[int, tuple[int, int]] = {}  # partition -> how far into events-n its index goes
        self._abandoned = False

    def frontiers(self) -> dict[int, bytes]:
        """See `Verifier.frontiers`."""
        return self._verifier.frontiers()

    def look_at_indexes(self, index_dir: Path) -> None:
        """Note what the indexes hold now, before anything is read: by then the topics hold at least as much.

        Raises:
            NoIndex: there is none of these partitions.
            IndexFailure: one is damaged, or not what its place says.
        """
        found = [self._look_at_index(number, index_dir) for number in self._chosen]
        if not any(found):
            raise NoIndex(f"no index of {self._topics.namespace} in {index_dir}")

    async def round(self, settled: Mapping[int, bytes]) -> Report:
        """Read what there is now and judge it, see `Verifier.report`.

        Raises:
            AdminFailed, SubscriptionMissing, PulsarError, ReadStalled, SpillFailed.
        """
        for attempt in range(1, ROUND_ATTEMPTS + 1):
            try:
                await self._read()
                break
            except (PulsarError, AdminFailed):
                if attempt == ROUND_ATTEMPTS:
                    raise
                for log in self._logs():
                    await log.let_go()
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        for number in list(self._indexes):
            self._check_index(number, at_the_end=True)
        try:
            progress = self._progress("judging", self._verifier.unjudged())
            return await asyncio.to_thread(self._verifier.report, settled, progress)
        except asyncio.CancelledError:
            self._abandoned = True  # ends the thread
            raise

    # --- reading ---

    async def _read(self) -> None:
        for log in (*self._events.values(), *self._rejected.values()):
            await log.find_end()
        for log in self._inputs.values():
            await log.find_end()
        extents, acknowledged = await asyncio.to_thread(self._ask_broker)
        for number, state in acknowledged.items():
            self._verifier.acknowledged(number, state)
        advance = self._progress("reading", sum(extents[log.topic].after(log.position) for log in self._logs()))
        for log, number, feed in self._feeds():
            await log.read(partial(self._feed, log, extents[log.topic], advance, feed, number))

    def _ask_broker(self) -> tuple[dict[str, Extent], dict[int, Acknowledged]]:
        extents: dict[str, Extent] = {}
        acknowledged: dict[int, Acknowledged] = {}
        for log in self._logs():
            stats = internal_stats(self._admin, log.topic)
            extents[log.topic] = Extent(stats)
            for number in self._chosen:
                if log is self._inputs[number]:
                    acknowledged[number] = acknowledged_of(stats, log.topic)
        return extents, acknowledged

    def _logs(self) -> Iterator[TopicLog]:
        yield from (*self._inputs.values(), *self._events.values(), *self._rejected.values())

    def _feeds(self) -> Iterator[tuple[TopicLog, int, Feed]]:
        """In the order in which they must be read."""
        for number, log in self._inputs.items():
            yield log, number, self._feed_input if number in self._chosen else self._feed_copies
        for number, log in self._events.items():
            yield log, number, self._feed_events
        for number, log in self._rejected.items():
            yield log, number, self._feed_rejected

    def _feed(
        self, log: TopicLog, extent: Extent, advance: Callable[[int], None], feed: Feed, number: int, entry: Entry
    ) -> None:
        advance(extent.between(log.position, entry.message_id))
        feed(number, entry)

    def _feed_input(self, number: int, entry: Entry) -> None:
        for record in submitted_records(entry):
            self._verifier.submitted(number, record)

    def _feed_copies(self, number: int, entry: Entry) -> None:
        """Of a partition that is not verified itself."""
        for record in submitted_records(entry):
            original = parse_message_id(record.forwarded_from or "")
            if original is not None and original.partition in self._chosen:
                self._verifier.copied(number, record)

    def _feed_events(self, number: int, entry: Entry) -> None:
        if number in self._indexes and entry.message_id[:2] > self._indexes[number]:
            self._check_index(number)
        for record in accepted_records(entry):
            self._verifier.accepted(number, record)

    def _feed_rejected(self, number: int, entry: Entry) -> None:
        for record in rejected_records(entry):
            self._verifier.rejected(number, record)

    def _progress(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            if self._abandoned:
                raise asyncio.CancelledError
            done += count
            self._show(what, done, total)

        return advance

    # --- indexes ---

    def _look_at_index(self, number: int, index_dir: Path) -> bool:
        """Hand what the index holds to the verifier. False: there is none."""
        topic = self._topics.events_partition(number)
        directory = index_directory(index_dir, self._topics.namespace, number)
        with peek_index(directory, identity=topic) as index:
            level = None if index is None or index.checkpoint is None else Checkpoint.from_bytes(index.checkpoint)
            if index is None:
                self.notes.append(f"partition {number}: no index in {directory}")
            elif level is None:
                self.notes.append(f"partition {number}: the index in {directory} is not complete")
            else:
                self._indexes[number] = level.position
                self._verifier.indexed(number, index.tails)
        return index is not None

    def _check_index(self, number: int, *, at_the_end: bool = False) -> None:
        """Compare it with the events that were read. It may be behind the topic, but must be right where it is."""
        ledger, entry = level = self._indexes.pop(number)
        end = self._events[number].position[:2]
        if at_the_end and level > end:
            what = f"the index of partition {number} goes up to {ledger}:{entry}, its events end at {end[0]}:{end[1]}"
            self._verifier.index_is_ahead(what)
        self._verifier.check_index(number)
