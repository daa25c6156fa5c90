"""`sequencer status` looks: over the binary protocol, the admin interface and, where told, into index directories.

Everything is bounded in time, and what fails or takes too long is told as unknown, not waited for. Topics are looked at
one after another within a partition: several that are first loaded at the same moment can stall each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sequencer import SequencerError
from sequencer.admin import HTTP_NOT_FOUND, AdminFailed, AdminReader, AdminUnreachable
from sequencer.entries import ForeignWriter, read_events
from sequencer.event import MAX_ENTRY_BYTES
from sequencer.names import SUBSCRIPTION, Topics, index_directory, short_name
from sequencer.owner import OwnerLogBroken, last_record
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import CorruptBatch, PulsarError
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.recovery import Checkpoint
from sequencer.status import (
    NO_EVENT,
    Backlog,
    Hold,
    IndexState,
    Ownership,
    PartitionState,
    Peer,
    Problem,
    Record,
    Rejections,
    TopicsState,
)
from sequencer.topics import TopicMissing, partition_count
from state.errors import IndexDamaged, IndexFailure, IndexMismatch
from state.peek import peek_checkpoint

PARTITION_LIMIT_S = 20.0
"""For everything that is asked about one partition."""

QUESTION_LIMIT_S = 6.0
"""For each question about a partition, and for each about the topics."""

CONCURRENT_PARTITIONS = 4

REJECTIONS_WINDOW_S = 15 * 60
"""How far back rejections are counted."""

MAX_REJECTIONS_READ = 10_000
"""Messages of the window that are read; the count is a lower bound beyond it."""

HOLD_SAMPLE_S = 1.0
"""Between the two looks at where the readers of an output stop, where a transaction is open on it."""

READ_BYTES = 8 * 1024 * 1024

Result = TypeVar("Result")


class Sight(NamedTuple):
    """What one look saw: the topics, and every partition in order."""

    topics: TopicsState
    partitions: list[PartitionState]


async def look(client: PulsarClient, admin: AdminReader, topics: Topics, index_dir: Path | None) -> Sight:
    """Look at all there is.

    Args:
        index_dir: where an instance on this machine keeps its indexes; None = do not look at any.

    Raises:
        PulsarError: the broker cannot be asked how many partitions there are.
        AdminUnreachable: nor anything else.
    """
    shared = await _look_at_topics(client, admin, topics)
    turns = asyncio.Semaphore(CONCURRENT_PARTITIONS)

    async def in_turn(number: int) -> PartitionState:
        async with turns:
            return await _Look(client, admin, topics, number, index_dir).state()

    count = max(shared.partitions.values(), default=0)
    return Sight(shared, list(await asyncio.gather(*(in_turn(number) for number in range(count)))))


async def _look_at_topics(client: PulsarClient, admin: AdminReader, topics: Topics) -> TopicsState:
    partitions: dict[str, int] = {}
    for topic in topics.all:
        try:
            partitions[short_name(topic)] = await partition_count(client, topic)
        except TopicMissing:
            partitions[short_name(topic)] = 0
    unknown: list[str] = []

    async def policy(topic: str, resource: str) -> Any:
        try:
            return await admin.get(f"{_path(topic)}/{resource}", {"applied": "true"})
        except AdminUnreachable:
            raise
        except AdminFailed as error:
            unknown.append(f"{resource} of {short_name(topic)}: {_one_line(error)}")
            raise

    retention: dict[str, object] = {}
    deduplication: dict[str, object] = {}
    threshold: int | None = None
    message_ttl_s = 0
    there = [topic for topic in topics.all if partitions[short_name(topic)]]
    try:
        for topic in there:
            if topic in (topics.events, topics.owners):
                retention[short_name(topic)] = await policy(topic, "retention")
            deduplication[short_name(topic)] = await policy(topic, "deduplicationEnabled")
        if topics.events in there:
            threshold = int(await policy(topics.events, "compactionThreshold") or 0)
        if topics.submitted in there:
            message_ttl_s = int(await policy(topics.submitted, "messageTTL") or 0)
    except AdminUnreachable:
        raise
    except AdminFailed:
        pass  # one that is not told is enough to know: the rest would only wait for the same
    return TopicsState(
        partitions=partitions,
        retention=retention,
        compaction_threshold=threshold,
        deduplication=deduplication,
        message_ttl_s=message_ttl_s,
        unknown=tuple(unknown),
    )


class _Look:
    """One look at one partition: question after question, each with its limit."""

    def __init__(
        self, client: PulsarClient, admin: AdminReader, topics: Topics, number: int, index_dir: Path | None
    ) -> None:
        self._client = client
        self._admin = admin
        self._number = number
        self._index_dir = None if index_dir is None else index_directory(index_dir, topics.namespace, number)
        self._submitted = topics.submitted_partition(number)
        self._events = topics.events_partition(number)
        self._rejected = topics.rejected_partition(number)
        self._owners = topics.owners_partition(number)
        self._unreadable: list[Problem] = []
        self._unknown: list[str] = []
        self._until_s = asyncio.get_running_loop().time() + PARTITION_LIMIT_S

    async def state(self) -> PartitionState:
        ownership = await self._ask("who owns it", self._ownership())
        record = await self._ask("the owner log", self._record())
        backlog = await self._ask("the backlog", self._backlog())
        last_sequence = await self._ask("the last event", self._last_sequence())
        index = None if self._index_dir is None else await self._ask("the index", self._index(self._index_dir))
        rejections = await self._ask("the rejections", self._rejections())
        holds, strangers = [], []
        for output in (self._events, self._rejected):
            if seen := await self._ask(f"the state of {short_name(output)}", self._output(output)):
                holds.extend(seen[0])
                strangers.extend(seen[1])
        return PartitionState(
            number=self._number,
            now_ms=time.time_ns() // 1_000_000,
            ownership=ownership,
            record=record,
            backlog=backlog,
            last_sequence=last_sequence,
            index=index,
            rejections=rejections,
            holds=tuple(holds),
            strangers=tuple(strangers),
            unreadable=tuple(self._unreadable),
            unknown=tuple(self._unknown),
        )

    async def _ask(self, what: str, question: Coroutine[None, None, Result]) -> Result | None:
        """The answer; None where there is none in time, which is noted."""
        limit_s = min(QUESTION_LIMIT_S, self._until_s - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(max(limit_s, 0)):
                return await question
        except TimeoutError:
            self._unknown.append(f"{what}: no answer in time")
        except (OwnerLogBroken, ForeignWriter, IndexMismatch, IndexDamaged) as broken:
            name = type(broken).__name__
            self._unreadable.append(Problem(f"{what}: {_one_line(broken)}", f"see '{name}' in docs/operations.md"))
        except (PulsarError, SequencerError, IndexFailure, OSError) as error:
            self._unknown.append(f"{what}: {_one_line(error)}")
        return None

    async def _ownership(self) -> Ownership:
        stats = await self._stats(self._owners)
        producers = _peers(stats.get("publishers"))
        return Ownership(
            producers[0] if producers else None, stats.get("topicEpoch"), stats.get("waitingPublishers", 0)
        )

    async def _record(self) -> Record | None:
        record = await last_record(self._client, self._owners)
        return None if record is None else Record(record.host, record.pid, record.epoch, record.since_ms)

    async def _backlog(self) -> Backlog:
        precise = {"getPreciseBacklog": "true", "getEarliestTimeInBacklog": "true"}
        subscription = (await self._stats(self._submitted, precise))["subscriptions"].get(SUBSCRIPTION)
        if subscription is None:
            return Backlog(subscribed=False, entries=0, oldest_ms=None, consumer=None)
        entries, oldest_ms = subscription["msgBacklog"], subscription.get("earliestMsgPublishTimeInBacklog", -1)
        consumers = _peers(subscription.get("consumers"))
        return Backlog(
            subscribed=True,
            entries=entries,
            oldest_ms=oldest_ms if entries and oldest_ms > 0 else None,
            consumer=consumers[0] if consumers else None,
        )

    async def _last_sequence(self) -> int:
        last = await _last_message(self._client, self._events)
        if last is None:
            return NO_EVENT
        sequence = NO_EVENT
        async for entry in _entries(self._client, self._events, last, start=last):
            for event in read_events(entry):
                sequence = event.sequence
        return sequence

    async def _index(self, directory: Path) -> IndexState:
        stored = peek_checkpoint(directory, identity=self._events)
        checkpoint = None if stored is None else Checkpoint.from_bytes(stored)
        return IndexState(None if checkpoint is None else checkpoint.next_sequence)

    async def _rejections(self) -> Rejections:
        counts: Counter[str] = Counter()
        last = await _last_message(self._client, self._rejected)
        if last is not None:
            async for entry in _entries(self._client, self._rejected, last, rollback_s=REJECTIONS_WINDOW_S):
                if counts.total() >= MAX_REJECTIONS_READ:
                    return Rejections(counts, REJECTIONS_WINDOW_S, complete=False)
                counts.update(_reasons(entry))
        return Rejections(counts, REJECTIONS_WINDOW_S, complete=True)

    async def _output(self, topic: str) -> tuple[list[Hold], list[str]]:
        """What holds back the readers of an output, and who else could write to it."""
        stats = await self._stats(topic)
        strangers = [f"{short_name(topic)}: {peer}" for peer in _peers(stats.get("publishers")) if not peer.is_ours]
        before = await self._transaction_buffer(topic)
        if not before.get("ongoingTxnSize"):
            return [], strangers
        await asyncio.sleep(HOLD_SAMPLE_S)  # time itself is what is asked for: does it move?
        after = await self._transaction_buffer(topic)
        count = after.get("ongoingTxnSize", 0)
        if not count:
            return [], strangers
        stored_ms = stats.get("lastPublishTimeStamp") or 0
        stuck = after.get("maxReadPosition") == before.get("maxReadPosition")
        name, open_s = await self._holder(topic) if stuck else ("", None)
        silent_s = _seconds_since(stored_ms) if stored_ms else None
        return [Hold(short_name(topic), count, stuck, silent_s, name, open_s)], strangers

    async def _holder(self, topic: str) -> tuple[str, float | None]:
        """The oldest transaction that a coordinator knows to have messages on a topic, and how long it is open."""
        # The number is no age: it lists what has a time-out of at least so many milliseconds. 0 = all that are open.
        slow = await self._admin.get("v3/transactions/slowTransactions/0")
        holders = [
            (transaction["openTimestamp"], name)
            for name, transaction in slow.items()
            if (transaction.get("producedPartitions") or {}).get(topic, {}).get("startPosition")
        ]
        if not holders:
            return "", None
        opened_ms, name = min(holders)
        return name, _seconds_since(opened_ms)

    async def _transaction_buffer(self, topic: str) -> Mapping[str, Any]:
        answer = await self._admin.get(f"v3/transactions/transactionBufferStats/{topic.removeprefix('persistent://')}")
        return answer if isinstance(answer, dict) else {}

    async def _stats(self, topic: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        try:
            stats: dict[str, Any] = await self._admin.get(f"{_path(topic)}/stats", query)
        except AdminFailed as error:
            if error.status == HTTP_NOT_FOUND:
                raise TopicMissing(topic) from error
            raise
        return stats


async def _last_message(client: PulsarClient, topic: str) -> MessageId | None:
    reader = await client.reader(topic)
    try:
        last = await reader.last_message_id()
    finally:
        await reader.close()
    return None if last.ledger < 0 else last


async def _entries(
    client: PulsarClient, topic: str, last: MessageId, *, start: MessageId | None = None, rollback_s: int = 0
) -> AsyncIterator[Entry]:
    """The entries from `start`, or from a time on, up to `last`."""
    end = last[:2]
    first = MessageId(*start[:2]) if start else MessageId(-1, -1)
    reader = await client.reader(topic, start=first, inclusive=True, rollback_s=rollback_s)
    try:
        # A reader that starts by time may start after the end, and would wait there for ever.
        begins_after = (await reader.bounds()).acknowledged if rollback_s else None
        while begins_after is None or begins_after[:2] < end:
            for entry in await reader.take(max_messages=MAX_REJECTIONS_READ, max_bytes=READ_BYTES):
                if entry.message_id[:2] <= end:
                    yield entry
                if entry.message_id[:2] >= end:
                    return
    finally:
        await reader.close()


def _reasons(entry: Entry) -> Iterator[str]:
    """The reason of every rejected message of an entry."""
    metadata = entry.metadata
    singles: list[SingleMessageMetadata | MessageMetadata] = [metadata]
    if metadata.HasField("num_messages_in_batch") and not metadata.encryption_keys:
        try:
            payload = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
            singles = [single for single, _, _ in split_batch(payload, metadata.num_messages_in_batch)]
        except CorruptBatch:
            singles = [MessageMetadata()]
    for single in singles:
        yield next((field.value for field in single.properties if field.key == "reason"), "unknown")


def _peers(answer: Any) -> list[Peer]:
    """Producers or consumers out of the broker's statistics."""
    return [
        Peer(
            str(peer.get("address", "?")).lstrip("/"),
            str(peer.get("connectedSince", "?")),
            str(peer.get("clientVersion") or ""),
        )
        for peer in answer or ()
    ]


def _seconds_since(time_ms: int) -> float:
    return max(0.0, time.time() - time_ms / 1000)


def _path(topic: str) -> str:
    return f"v2/persistent/{topic.removeprefix('persistent://')}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
