"""Priming an output topic: its first transaction ever is one that is aborted, not one that holds somebody's events.

Until a topic has seen a transaction its buffer in the broker is not Ready: aborts write no marker, and a commit made
in that state can stay invisible. The first transactional message waits for the buffer's first snapshot, so once its
receipt is there the buffer is Ready, and the abort that follows writes a marker like every later one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from sequencer import SequencerError
from sequencer.pulsar.client import Consumer, Coordinator, Producer, PulsarClient
from sequencer.pulsar.errors import PulsarError, Remedy, ServerError, ServerRefused
from sequencer.pulsar.frames import TxnId

PRIME_ATTEMPTS = 4
"""Loading a topic can stall in the broker for 30 s and then close the topic: asking again is all that helps."""
PRIME_RETRY_DELAY_S = 1.0
PRIME_TTL_MS = 15_000
"""Short, because no log lists this transaction: one that a crash leaves open hides what comes after it so long."""
PRIMING_COORDINATOR = 0
PAYLOAD = b"priming"


class PrimingFailed(SequencerError):
    """The topic shows a message that was sent in an aborted transaction, or the broker refused PRIME_ATTEMPTS times."""


async def prime_outputs(
    client: PulsarClient, topics: Sequence[str], *, already: Callable[[str], bool], report: Callable[[str, bool], None]
) -> None:
    """Primes partitions (full names) one after another, because topics of a namespace that are first loaded at the same
    moment can stall each other.

    A partition whose producers another process holds exclusively has an owner, who primes it: it is left alone.

    Args:
        already: whether a partition needs nothing, as far as the broker tells.
        report: called with each partition and whether a transaction was run on it.

    Raises: PrimingFailed, PulsarError.
    """
    for topic in topics:
        report(topic, not already(topic) and await _prime_unowned(client, topic))


async def _prime_unowned(client: PulsarClient, topic: str) -> bool:
    try:
        return await prime_output(client, topic)
    except ServerRefused as error:
        if not _is_owned(error):
            raise
        return False


def _is_owned(error: PulsarError) -> bool:
    """Whether somebody else holds the topic exclusively."""
    return isinstance(error, ServerRefused) and error.error in (ServerError.PRODUCER_BUSY, ServerError.PRODUCER_FENCED)


async def prime_output(client: PulsarClient, topic: str, *, producer: Producer | None = None) -> bool:
    """Runs one aborted transaction on an output partition that shows no message. False: it does, nothing was done.

    Args:
        producer: the caller's own producer on the topic, where he holds it exclusively.

    Raises: PrimingFailed, PulsarError; after PRIME_ATTEMPTS where trying again can help and the producer is our own.
    """
    attempts = 1 if producer is not None else PRIME_ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return await _prime_once(client, topic, producer)
        except PulsarError as error:
            if attempt == attempts or error.remedy is Remedy.FATAL or _is_owned(error):
                raise
        await asyncio.sleep(PRIME_RETRY_DELAY_S * attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _prime_once(client: PulsarClient, topic: str, producer: Producer | None) -> bool:
    reader = await client.reader(topic)
    try:
        if await shows_messages(reader):
            return False
        coordinator = await client.coordinator(PRIMING_COORDINATOR)
        if producer is not None:
            await _abort_one(coordinator, producer)
        else:
            own = await client.producer(topic)
            try:
                await _abort_one(coordinator, own)
            finally:
                await _quietly_closed(own)
        if await shows_messages(reader):
            raise PrimingFailed(f"{topic} shows a message although its only transaction was aborted")
        return True
    finally:
        await _quietly_closed(reader)


async def shows_messages(reader: Consumer) -> bool:
    """Whether anything is readable: the broker names no last message where all that is there is aborted or open."""
    return (await reader.last_message_id()).ledger >= 0


async def _abort_one(coordinator: Coordinator, producer: Producer) -> None:
    txn = await coordinator.new_txn(ttl_ms=PRIME_TTL_MS)
    try:
        await coordinator.add_partitions(txn, [producer.topic])
        await producer.send(b"", PAYLOAD, num_messages=1, txn=txn)
    except BaseException:
        await _quietly_aborted(coordinator, txn)
        raise
    # The answer comes after the topic has stored the marker: nothing is left to wait for.
    await coordinator.end(txn, commit=False)


async def _quietly_aborted(coordinator: Coordinator, txn: TxnId) -> None:
    """The failure that is already under way tells more than this one would; the transaction then ends at its TTL."""
    with contextlib.suppress(PulsarError):
        await coordinator.end(txn, commit=False)


async def _quietly_closed(handle: Producer | Consumer) -> None:
    with contextlib.suppress(PulsarError):
        await handle.close()
