"""The ceiling: a transactional relay, the least that any sequencer on this broker and this client has to do.

It copies every submitted entry unopened to `events` and acknowledges it in the same transaction. It takes its office
and its transactions from the sequencer itself and pipelines in the same way: the next transactions are produced while
one commits, strictly in order. It reads no event, decides nothing and keeps no index.

As a process of its own:  python -m bench.relay --service-url URL --namespace NAMESPACE
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Sequence
from typing import NamedTuple

import click

from sequencer.names import Topics
from sequencer.packing import SENDERS_OWN_FIELDS
from sequencer.partition import Office, Partition, take_over, unless
from sequencer.pool import TransactionPool
from sequencer.pulsar.client import AccessMode, PulsarClient
from sequencer.pulsar.frames import Entry, MessageId, TxnId
from sequencer.service import GC_THRESHOLD
from sequencer.topics import partition_count

RELAYING = r": relaying$"

TRANSACTION_MESSAGES = 16_000
"""What a commit costs beside its messages would be the limit with fewer: a third of the rate at 4,000. Still more gave
nothing."""

TRANSACTION_BYTES = 4 * 1024 * 1024
FLIGHTS = 8
"""Transactions that are produced and not yet committed; 4 did as well, 16 worse."""

log = logging.getLogger(__name__)


class Flight(NamedTuple):
    """A transaction that has been produced, and waits for its receipts and its commit."""

    txn: TxnId
    sent: Sequence[asyncio.Future[MessageId]]
    acknowledged: asyncio.Future[None]
    messages: int


async def relay(client: PulsarClient, partition: Partition, stop: asyncio.Event) -> None:
    """Relay one partition until `stop` is set. Nothing is ever repaired: the first failure is raised."""
    owner = await client.producer(partition.owners, access_mode=AccessMode.WAIT_FOR_EXCLUSIVE)
    office = await take_over(client, partition, owner)
    pool = office.pool(partition)
    await pool.fill()
    log.info("%s: relaying", partition)
    flights: asyncio.Queue[Flight | None] = asyncio.Queue(FLIGHTS)
    async with asyncio.TaskGroup() as group:
        group.create_task(_produce(office, pool, flights, stop))
        messages, transactions = await _commit(office, pool, flights)
    await pool.close()
    log.info("%s: stopped after %d messages in %d transactions", partition, messages, transactions)


async def _produce(
    office: Office, pool: TransactionPool, flights: asyncio.Queue[Flight | None], stop: asyncio.Event
) -> None:
    while entries := await unless(
        stop, office.input.take(max_messages=TRANSACTION_MESSAGES, max_bytes=TRANSACTION_BYTES)
    ):
        txn = await pool.take()
        sent, messages = [], 0
        for entry in entries:
            count = entry.metadata.num_messages_in_batch  # 1 where it is none
            sent.append(office.events.send(kept_metadata(entry), entry.payload, count, txn=txn))
            messages += count
        acknowledged = office.input.ack([entry.message_id for entry in entries], txn=txn)
        await office.events.drain()
        await flights.put(Flight(txn, sent, acknowledged, messages))
    await flights.put(None)


def kept_metadata(entry: Entry) -> bytes:
    """The entry's metadata for a new sender. The entry is nobody else's, so its metadata is not copied first."""
    metadata = entry.metadata
    for name in SENDERS_OWN_FIELDS:
        metadata.ClearField(name)
    return metadata.SerializePartialToString()


async def _commit(office: Office, pool: TransactionPool, flights: asyncio.Queue[Flight | None]) -> tuple[int, int]:
    """Commit in order. Returns how many messages were relayed, and in how many transactions."""
    messages = transactions = 0
    while (flight := await flights.get()) is not None:
        await asyncio.gather(*flight.sent, flight.acknowledged)
        await office.coordinator.end(flight.txn, commit=True)
        pool.ended(flight.txn)
        messages += flight.messages
        transactions += 1
    return messages, transactions


async def serve(service_url: str, topics: Topics, numbers: Sequence[int]) -> None:
    """Relay these partitions, all where none is named, until SIGTERM. The process is set up as a sequencer's."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 100)
    async with PulsarClient(service_url) as asking:
        count = await partition_count(asking, topics.submitted)
    async with asyncio.TaskGroup() as group:
        for number in numbers or range(count):
            group.create_task(_relay_alone(service_url, Partition(number, count, topics), stop))


async def _relay_alone(service_url: str, partition: Partition, stop: asyncio.Event) -> None:
    """On a connection of its own, as every partition of a sequencer."""
    async with PulsarClient(service_url) as client:
        await relay(client, partition, stop)


@click.command("relay")
@click.option("--service-url", required=True)
@click.option("--namespace", required=True)
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="All where none is named.")
def command(service_url: str, namespace: str, partitions: tuple[int, ...]) -> None:
    """Relay until SIGTERM."""
    import uvloop

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    uvloop.run(serve(service_url, Topics(namespace), partitions))


if __name__ == "__main__":
    command()
