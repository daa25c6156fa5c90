"""One partition's life: ACQUIRE, RECOVER, SEQUENCE.

`live` is the whole story, top to bottom. It owns everything it opens, repairs nothing, and ends at the first thing that
goes wrong: a lost connection, a refused SEND, an unknown commit. Whoever called it starts another life (`service.py`).
That is the only way in which anything is ever repaired.

Why it is safe: a partition has one owner, which the broker elects (WaitForExclusive on the owner topic). A new owner
first makes its predecessor harmless (its producers are fenced, its consumer is gone), then ends every transaction that
the predecessor may have left, and only then asks where `events` ends. Nothing can be committed behind its back after
that, so its index, brought to that end, is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from sequencer import SequencerError
from sequencer.decide import Decided, Overlay
from sequencer.entries import portions, read_submitted
from sequencer.event import Forwarded, Rejected
from sequencer.forward import Forwarder
from sequencer.names import SUBSCRIPTION, Topics
from sequencer.owner import OwnerLog, Superseded, end_transactions, last_record
from sequencer.packing import Output, Packer, accepted_messages, rejected_messages
from sequencer.pool import TransactionPool
from sequencer.prime import prime_outputs, refresh_end
from sequencer.pulsar.client import AccessMode, Consumer, Coordinator, Producer, PulsarClient
from sequencer.pulsar.errors import ConsumerBusy, PulsarError
from sequencer.pulsar.frames import LATEST, Entry, MessageId, TxnId
from sequencer.recovery import START, Checkpoint, keep_level, open_index, recover
from sequencer.replies import Replies, replies_to
from sequencer.reply import ReplyRun
from state.index import IndexFailure, VersionIndex

GRANT_WAIT_S = 1.0
"""How long to wait for the grant of a partition that may be free before saying that it has not come."""

CONSUMER_BUSY_WAIT_S = 60.0
"""How long to wait for the broker to see that the predecessor's consumer is gone; it probes a silent one for 5 s."""

CONSUMER_BUSY_RETRY_S = 0.05

BATCH_MESSAGES = 8_000
"""Submitted messages that go into one transaction, if as many have arrived: a commit costs the broker as much as
thousands of messages."""

PORTION_MESSAGES = 500
"""Messages that are read, judged and made outcomes of in one go: what they take stays in the processor's cache."""

FIRST_BATCH_MESSAGES = 500
"""The first transaction of a life is small: after a takeover a backlog waits, and everybody for the first commit."""

BATCH_BYTES = 4 * 1024 * 1024
"""Submitted bytes, once decompressed, that go into one transaction; a single entry may be larger."""

FLIGHTS = 2
"""Transactions that are under way: one, and where as much waits as a transaction takes, the next is produced while it
commits. What arrives meanwhile goes into the one after: a commit costs the broker as much as thousands of messages, and
more of them would be a queue, in which each waits for the commits of all before it."""

FAREWELL_S = 5.0
"""On a clean stop: how long commits in flight and aborts of unused transactions may take."""

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Partition:
    """Which partition of which topics."""

    number: int
    count: int
    """Partitions of every topic, fixed for life: it decides where an aggregate belongs."""
    topics: Topics

    @property
    def submitted(self) -> str:
        return self.topics.submitted_partition(self.number)

    @property
    def events(self) -> str:
        return self.topics.events_partition(self.number)

    @property
    def rejected(self) -> str:
        return self.topics.rejected_partition(self.number)

    @property
    def owners(self) -> str:
        return self.topics.owners_partition(self.number)

    def __str__(self) -> str:
        return f"partition {self.number}"


class Office(NamedTuple):
    """Everything that an owner holds. Losing one of them is losing all."""

    log: OwnerLog
    events: Producer
    rejected: Producer
    input: Consumer
    coordinator: Coordinator

    def pool(self, partition: Partition) -> TransactionPool:
        """Transactions for this partition's work; it holds none yet."""
        return TransactionPool(
            self.coordinator,
            self.log,
            output_topic=partition.events,
            input_topic=partition.submitted,
            subscription=SUBSCRIPTION,
        )


class Judged(NamedTuple):
    """What a transaction is to hold."""

    decided: Decided
    """Its outcomes are left out: the rest is made of them."""
    events: Sequence[Output]
    rejected: Sequence[Output]
    forwarded: Sequence[Forwarded]
    replies: Sequence[ReplyRun]


class Flight(NamedTuple):
    """A transaction that has been produced: outcomes sent, input acknowledged, not yet committed."""

    txn: TxnId
    decided: Decided
    events: Sequence[asyncio.Future[MessageId]]
    others: Sequence[asyncio.Future[MessageId] | asyncio.Future[None]]
    forwarded: int
    replies: Sequence[ReplyRun]


async def live(
    client: PulsarClient, partition: Partition, index_dir: Path, replies: Replies, stop: asyncio.Event
) -> None:
    """Own a partition from the grant until `stop` is set; stands by while another instance owns it.

    Args:
        client: this life's own. To close it is to let go of everything, on every broker, at once.
        index_dir: the partition's; what is missing there is made, what is damaged is made anew.
        replies: outlives this life; what happens to it is of no consequence here.

    Raises:
        NeedsOperator, IndexMismatch: no other life can do better.
        PulsarError, IndexFailure, SequencerError, OSError: this life is over, another may do better.
    """
    with open_index(index_dir, identity=partition.events) as index:
        office = await unless(stop, acquire(client, partition, index))
        if office is None:
            return
        pool = office.pool(partition)
        try:
            # A rebuild may take minutes: whoever has lost the partition meanwhile need not finish it.
            lost = _raise_when_lost(office.log, office.events, office.rejected, office.coordinator)
            ready = await unless(stop, _race(_make_ready(client, partition, office, index, pool), lost))
            if ready is None:
                return
            end, consumer = ready
            office = office._replace(input=consumer)
            log.info("%s: sequencing, epoch %d, sequence %d", partition, office.log.epoch, end.next_sequence)
            await sequence(client, partition, office, index, pool, end, replies, stop)
        finally:
            pool.abandon()


async def _make_ready(
    client: PulsarClient, partition: Partition, office: Office, index: VersionIndex, pool: TransactionPool
) -> tuple[Checkpoint, Consumer]:
    """RECOVER, and at the same time what the first transaction will need."""
    async with _together() as group:
        end = group.create_task(recover(client, partition.events, index))
        consumer = group.create_task(_resubscribe(client, partition, office.input))
        group.create_task(pool.fill())
    return end.result(), consumer.result()


async def _resubscribe(client: PulsarClient, partition: Partition, consumer: Consumer) -> Consumer:
    """Anew, so that delivery starts at the first message that no transaction has acknowledged."""
    await consumer.close()
    return await _subscribe(client, partition)


@contextlib.asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that fail together, with the reason of the first: it tells why, the others only follow."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except* (PulsarError, IndexFailure, SequencerError, OSError) as failures:
        raise failures.exceptions[0] from None


async def unless(stop: asyncio.Event, work: Awaitable[Result]) -> Result | None:
    """The result of `work`; None where `stop` is set first, and then the work is cancelled."""
    if stop.is_set():
        # Work that is done at once, over and over, as with a backlog, would win every race.
        asyncio.ensure_future(work).cancel()
        return None
    return await _race(work, stop.wait())


async def _race(work: Awaitable[Result], other: Awaitable[object]) -> Result | None:
    """The result of `work`, or None where `other` ends first; whatever is not over then is cancelled.

    Raises: what either of them raised.
    """
    working, beside = asyncio.ensure_future(work), asyncio.ensure_future(other)
    try:
        await asyncio.wait({working, beside}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        beside.result()
        return None
    finally:
        if unfinished := {task for task in (working, beside) if task.cancel()}:
            await asyncio.wait(unfinished, timeout=FAREWELL_S)
        for task in (working, beside):
            if task.done() and not task.cancelled():
                task.exception()  # both may fail of the same loss; one of them tells it


# --- ACQUIRE ---


async def acquire(client: PulsarClient, partition: Partition, index: VersionIndex) -> Office:
    """Wait to be the owner, and meanwhile keep the index warm; then take over.

    Raises: see `take_over` and `recover`; EndpointClosed where the owner topic moves to another broker meanwhile.
    """
    # A request that is parked when its topic is unloaded is forgotten, and nobody is told. This reader is told.
    watch = await client.reader(partition.owners, start=LATEST)
    elected = asyncio.ensure_future(client.producer(partition.owners, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE))
    try:
        async with asyncio.timeout(GRANT_WAIT_S):
            owner = await asyncio.shield(elected)
    except TimeoutError:
        log.info("%s: not granted yet (it has an owner, or its topic is still loading), standing by", partition)
        # The request is left where it is: the broker keeps also those that are withdrawn, and works through them all.
        meanwhile = _race(keep_level(client, partition.events, index), _raise_when_lost(watch))
        granted = await _race(elected, meanwhile)
        assert granted is not None, "a standby waits without end"
        owner = granted
    finally:
        elected.cancel()
    log.info("%s: granted, epoch %d", partition, owner.topic_epoch)
    # Who loses the partition again would wait here for the consumer of whoever has it now.
    office = await _race(take_over(client, partition, owner), _raise_when_lost(owner))
    assert office is not None, "a loss is raised"
    return office


async def take_over(client: PulsarClient, partition: Partition, owner: Producer) -> Office:
    """Become the only writer: fence the predecessor first, then end its transactions.

    Args:
        owner: the exclusive producer on the owner topic, which makes us the owner.

    Raises:
        Superseded: somebody became the owner after us.
        OwnerLogBroken: the predecessor's transactions cannot be known or ended.
        PulsarError: something needed was refused or lost.
    """
    fencing = AccessMode.EXCLUSIVE_WITH_FENCING
    async with _together() as group:
        events = group.create_task(client.producer(partition.events, access_mode=fencing))
        rejected = group.create_task(client.producer(partition.rejected, access_mode=fencing))
        consumer = group.create_task(_subscribe(client, partition))
        coordinator = group.create_task(_coordinator(client, partition))
    log.info("%s: predecessor fenced", partition)
    record = await last_record(client, partition.owners)
    if record is not None:
        if record.epoch > owner.topic_epoch:
            raise Superseded(f"{partition}: epoch {record.epoch} has taken over, ours is {owner.topic_epoch}")
        await end_transactions(client, [TxnId(*txn) for txn in record.transactions])
        log.info("%s: %d transactions of epoch %d ended", partition, len(record.transactions), record.epoch)
    office = Office(OwnerLog(owner), events.result(), rejected.result(), consumer.result(), coordinator.result())
    # The broker treats the first transaction ever on a topic differently: it must not be one that matters.
    await prime_outputs(client, (office.events, office.rejected), office.coordinator, office.log)
    await refresh_end(office.events, office.coordinator, office.log)
    return office


async def _coordinator(client: PulsarClient, partition: Partition) -> Coordinator:
    """The one that this partition's transactions are opened at; they are spread over all."""
    return await client.coordinator(partition.number % await client.coordinators())


async def _subscribe(client: PulsarClient, partition: Partition) -> Consumer:
    deadline_s = time.monotonic() + CONSUMER_BUSY_WAIT_S
    while True:
        try:
            return await client.subscribe(partition.submitted, SUBSCRIPTION)
        except ConsumerBusy:
            if time.monotonic() > deadline_s:
                raise
        # Paced, not awaited: the broker does not tell when the subscription becomes free.
        await asyncio.sleep(CONSUMER_BUSY_RETRY_S)


# --- SEQUENCE ---


async def sequence(
    client: PulsarClient,
    partition: Partition,
    office: Office,
    index: VersionIndex,
    pool: TransactionPool,
    end: Checkpoint,
    replies: Replies,
    stop: asyncio.Event,
) -> None:
    """Judge what arrives and commit it, until `stop` is set or anything is lost.

    Two coroutines share the work: one decides and produces the next transactions while the other commits the earlier
    ones, strictly in order. What is decided lives in the overlay until its commit, then in the index.
    """
    overlay = Overlay(index, partition=partition.number, partitions=partition.count, next_sequence=end.next_sequence)
    forwarder = Forwarder(client, partition.topics)
    flights: asyncio.Queue[Flight | None] = asyncio.Queue()
    room = asyncio.Semaphore(FLIGHTS)
    async with _together() as group:
        watch = group.create_task(_raise_when_lost(*office))
        group.create_task(_produce(partition, office, overlay, pool, forwarder, flights, room, stop))
        commit = group.create_task(_commit(office, overlay, pool, index, replies, flights, room))
        await stop.wait()
        async with asyncio.timeout(FAREWELL_S):
            committed = await commit
            await pool.close()
        log.info("%s: stopped after %d messages in %d transactions, %d forwarded", partition, *committed)
        watch.cancel()


async def _produce(
    partition: Partition,
    office: Office,
    overlay: Overlay,
    pool: TransactionPool,
    forwarder: Forwarder,
    flights: asyncio.Queue[Flight | None],
    room: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Take what has arrived, decide it, send its outcomes and acknowledge it, in one transaction each.

    `stop` is heard between transactions only: what is sent must be committed, or aborted after all its receipts.
    """
    limit = min(office.events.max_message_size, office.rejected.max_message_size)
    last, messages = START.position, FIRST_BATCH_MESSAGES
    while entries := await unless(stop, _arrived(office.input, room, messages)):
        messages = BATCH_MESSAGES
        last = _check_order(partition, last, entries)
        txn = await pool.take()
        judged = _judge(overlay, entries, limit)
        events = [office.events.send(*output, txn=txn) for output in judged.events]
        others: list[asyncio.Future[MessageId] | asyncio.Future[None]] = []
        others.append(office.input.ack([entry.message_id for entry in entries], txn=txn))
        if judged.forwarded:
            others += await forwarder.send(judged.forwarded, limit)
        if judged.rejected:
            # Registered on first use: most transactions have nothing to reject.
            await office.coordinator.add_partitions(txn, [partition.rejected])
            others += [office.rejected.send(*output, txn=txn) for output in judged.rejected]
        await office.events.drain()
        flights.put_nowait(Flight(txn, judged.decided, events, others, len(judged.forwarded), judged.replies))
    flights.put_nowait(None)


def _judge(overlay: Overlay, entries: Sequence[Entry], limit: int) -> Judged:
    """What the entries of one transaction become."""
    decided: Decided | None = None
    accepted, rejected = Packer(limit), Packer(limit)
    forwarded: list[Forwarded] = []
    replies: list[ReplyRun] = []
    for portion in portions(entries, PORTION_MESSAGES):
        decided = overlay.decide(read_submitted(portion, limit), decided)
        rejections: list[Rejected] = []
        for outcome in decided.outcomes:
            match outcome:
                case Forwarded():
                    forwarded.append(outcome)
                case Rejected():
                    rejections.append(outcome)
                case _:
                    accepted.add(accepted_messages(outcome))
        for messages in rejected_messages(rejections):
            rejected.add(messages)
        replies += replies_to(decided.outcomes, limit)
    assert decided is not None, "there was at least one entry"
    return Judged(decided._replace(outcomes=()), accepted.close(), rejected.close(), forwarded, replies)


async def _arrived(consumer: Consumer, room: asyncio.Semaphore, max_messages: int) -> list[Entry]:
    """What has arrived once there is room for one more transaction: much under full load, one message when idle."""
    await room.acquire()
    if room.locked():
        await _race(consumer.filled(messages=BATCH_MESSAGES, content_bytes=BATCH_BYTES), _emptied(room))
    return await consumer.take(max_messages=max_messages, max_bytes=BATCH_BYTES)


async def _emptied(room: asyncio.Semaphore) -> None:
    """Return when nothing is under way any more."""
    async with room:
        pass


def _check_order(partition: Partition, last: tuple[int, int], entries: Sequence[Entry]) -> tuple[int, int]:
    """Delivery must only go forward: an entry that comes again would be judged twice in this life."""
    for entry in entries:
        position = entry.message_id[:2]
        if position <= last:
            raise OutOfOrder(f"{partition}: entry {position} was delivered after {last}")
        last = position
    return last


class OutOfOrder(PulsarError):
    """The broker has started delivery anew under a consumer that did not ask for it."""


async def _commit(
    office: Office,
    overlay: Overlay,
    pool: TransactionPool,
    index: VersionIndex,
    replies: Replies,
    flights: asyncio.Queue[Flight | None],
    room: asyncio.Semaphore,
) -> tuple[int, int, int]:
    """Commit in order: END is sent when the predecessor's has succeeded, and the index hears of it last.

    Returns: how many submitted messages were judged, in how many transactions, and how many of them forwarded.
    """
    messages = transactions = forwarded = 0
    while (flight := await flights.get()) is not None:
        positions = await asyncio.gather(*flight.events)
        await asyncio.gather(*flight.others)
        await office.coordinator.end(flight.txn, commit=True)
        room.release()
        pool.ended(flight.txn)
        replies.send(flight.replies)
        if positions:
            end = Checkpoint(positions[-1].ledger, positions[-1].entry, flight.decided.next_sequence)
            index.apply(
                flight.decided.tails,
                flight.decided.ids.rows(),
                accepted_at_ms=time.time_ns() // 1_000_000,
                checkpoint=end.to_bytes(),
            )
        overlay.applied(flight.decided)
        messages += flight.decided.messages
        transactions += 1
        forwarded += flight.forwarded
    return messages, transactions, forwarded


async def _raise_when_lost(*things: OwnerLog | Producer | Consumer | Coordinator) -> NoReturn:
    """One lost resource ends the life, also when nothing is being asked of it at the moment."""
    lost = [thing.lost for thing in things]
    await asyncio.wait(lost, return_when=asyncio.FIRST_COMPLETED)
    raise next(future.result() for future in lost if future.done())
