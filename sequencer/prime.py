"""Priming an output topic: its first transaction ever is one that is aborted, not one that holds somebody's events.

Until a topic has seen a transaction its buffer in the broker is not Ready: aborts write no marker, and a commit made
in that state can stay invisible. The first transactional message waits for the buffer's first snapshot, so once its
receipt is there the buffer is Ready, and the abort that follows writes a marker like every later one.

The transaction is recorded in the owner log like every other: one that a crash leaves open hides what comes after it,
and the next owner must find and end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sequencer import SequencerError
from sequencer.event import PRIMING
from sequencer.owner import OwnerLog
from sequencer.pool import TRANSACTION_TTL_S
from sequencer.pulsar.client import Coordinator, Producer, PulsarClient


class PrimingFailed(SequencerError):
    """The topic shows a message that was sent in an aborted transaction."""


async def prime_outputs(
    client: PulsarClient, outputs: Sequence[Producer], coordinator: Coordinator, owner_log: OwnerLog
) -> None:
    """Run one aborted transaction on every output partition that shows no message.

    Only the partition's owner may: `outputs` are its producers, `owner_log` its log.

    Raises:
        PrimingFailed, PulsarError.
    """
    shown = await asyncio.gather(*(_shows_messages(client, output.topic) for output in outputs))
    for output, shows in zip(outputs, shown, strict=True):
        if not shows:
            await _prime(client, output, coordinator, owner_log)


async def _prime(client: PulsarClient, output: Producer, coordinator: Coordinator, owner_log: OwnerLog) -> None:
    txn = await coordinator.new_txn(ttl_ms=int(TRANSACTION_TTL_S * 1000))
    await owner_log.record([txn])
    await coordinator.add_partitions(txn, [output.topic])
    await output.send(b"", PRIMING, num_messages=1, txn=txn)
    # The answer comes after the topic has stored the marker: nothing is left to wait for.
    await coordinator.end(txn, commit=False)
    if await _shows_messages(client, output.topic):
        raise PrimingFailed(f"{output.topic} shows a message although its only transaction was aborted")


async def refresh_end(output: Producer, coordinator: Coordinator, owner_log: OwnerLog) -> None:
    """Have the broker forget what it remembers as the end of an output partition, by an empty transaction's abort.

    A broker (4.2.4, PersistentTopic.getLastDispatchablePosition) keeps the answer of GET_LAST_MESSAGE_ID until the next
    commit or abort. An answer that somebody's question is still looking for while a transaction commits is kept too,
    although it is the end before that commit: whoever asks afterwards would not hear of what was committed last. So
    whoever must know the end asks after one more abort, some round trips later than the last commit.

    Raises:
        PulsarError.
    """
    txn = await coordinator.new_txn(ttl_ms=int(TRANSACTION_TTL_S * 1000))
    await owner_log.record([txn])
    await coordinator.add_partitions(txn, [output.topic])
    await coordinator.end(txn, commit=False)


async def _shows_messages(client: PulsarClient, topic: str) -> bool:
    """Whether anything is readable: the broker names no last message where all that is there is aborted or open."""
    reader = await client.reader(topic)
    try:
        return (await reader.last_message_id()).ledger >= 0
    finally:
        await reader.close()
