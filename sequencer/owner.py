"""The owner log: which transactions the owner of a partition may still have open.

An owner records the id of every transaction in `sequencer_owners`-n before it uses it. Its successor reads the last
record and ends what is listed, and from then on knows that nothing can be committed behind its back. No transaction is
ever used on that topic itself, so its end is exact.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from sequencer import NeedsOperator, SequencerError
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.client import Coordinator, Producer, PulsarClient
from sequencer.pulsar.errors import CorruptBatch, PulsarError, Remedy, RequestTimedOut, ServerError, ServerRefused
from sequencer.pulsar.frames import Entry, MessageId, TxnId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata
from sequencer.pulsar.transaction import TransactionState, state_named_in

END_WITHIN_S = 60.0
"""How long a successor tries to end one of its predecessor's transactions before it gives its own life up."""

END_RETRY_DELAY_S = 0.02
MAX_RECORDED_TRANSACTIONS = 1024
MAX_UNIX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: no calendar goes further."""

_FOREIGN_ROLE = "neither the owner"
"""In the text of TransactionNotFound: the transaction exists and belongs to another role."""


class OwnerLogBroken(NeedsOperator):
    """The last record cannot be read, or lists what only another role can end. No restart helps."""


class Superseded(SequencerError):
    """A later owner has written its record: this instance lost the partition without noticing."""


Natural = Annotated[int, msgspec.Meta(ge=0)]


class OwnerRecord(msgspec.Struct, frozen=True):
    """One message on `sequencer_owners`-n, as JSON."""

    epoch: Natural
    """The owner's topic epoch: the broker counts it up at every grant."""
    host: str
    pid: Natural
    since_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_UNIX_MS)]
    """When it became the owner, Unix time."""
    transactions: Annotated[list[tuple[Natural, Natural]], msgspec.Meta(max_length=MAX_RECORDED_TRANSACTIONS)]
    """Every id that may be open, as (most, least)."""

    def __post_init__(self) -> None:
        # The largest number that msgspec itself can check for has 63 bits.
        if any(part >= 2**64 for txn in self.transactions for part in txn):
            raise ValueError("a transaction's id has more than 64 bits")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(OwnerRecord).decode


class OwnerLog:
    """The writing side: what the owner of a partition promises about its transactions."""

    def __init__(self, producer: Producer) -> None:
        self.epoch = producer.topic_epoch
        self._producer = producer
        self._host = socket.gethostname()
        self._since_ms = time.time_ns() // 1_000_000

    @property
    def lost(self) -> asyncio.Future[PulsarError]:
        """Done when the owner topic is no longer ours; the result is the reason."""
        return self._producer.lost

    async def record(self, transactions: Iterable[TxnId]) -> None:
        """Store the list of all live transactions; none may be used before this returns.

        Raises:
            PulsarError: it is not known to be stored; the owner must give up.
        """
        listed = [(txn.most, txn.least) for txn in transactions]
        assert len(listed) <= MAX_RECORDED_TRANSACTIONS
        payload = _encode(OwnerRecord(self.epoch, self._host, os.getpid(), self._since_ms, listed))
        metadata = MessageMetadata(uncompressed_size=len(payload)).SerializePartialToString()
        await self._producer.send(metadata, payload, num_messages=1)


async def last_record(client: PulsarClient, topic: str) -> OwnerRecord | None:
    """The newest record on the owner log; None where nobody ever owned the partition.

    Raises:
        OwnerLogBroken: what is stored there is not an owner record.
    """
    reader = await client.reader(topic)
    try:
        last = await reader.last_message_id()
    finally:
        await reader.close()
    if last.ledger == -1:
        return None
    reader = await client.reader(topic, start=MessageId(last.ledger, last.entry), inclusive=True)
    try:
        while True:
            for entry in await reader.take(max_messages=1, max_bytes=1):
                if entry.message_id[:2] >= last[:2]:
                    return _read_record(topic, entry)
    finally:
        await reader.close()


def _read_record(topic: str, entry: Entry) -> OwnerRecord:
    try:
        payload = entry.payload
        if entry.metadata.HasField("num_messages_in_batch"):
            # The last one counts, and only that one is held.
            ((_, _, payload),) = deque(split_batch(payload, entry.metadata.num_messages_in_batch), maxlen=1)
        return _decode(payload)
    except (msgspec.MsgspecError, CorruptBatch, ValueError, RecursionError) as broken:
        raise OwnerLogBroken(f"{topic}, message {entry.message_id}: not an owner record: {broken}") from None


async def end_transactions(client: PulsarClient, transactions: Sequence[TxnId]) -> None:
    """End every transaction, each at its own coordinator, and return when all of them have ended.

    Raises:
        OwnerLogBroken: one belongs to another role.
        PulsarError: a coordinator cannot be reached or does not answer.
    """
    coordinators = {tc: await client.coordinator(tc) for tc in {txn.most for txn in transactions}}
    try:
        async with asyncio.timeout(END_WITHIN_S):
            await asyncio.gather(*(end_transaction(coordinators[txn.most], txn) for txn in transactions))
    except TimeoutError:
        raise RequestTimedOut(f"a predecessor's transactions did not end within {END_WITHIN_S:.0f} s") from None


async def end_transaction(coordinator: Coordinator, txn: TxnId) -> None:
    """Abort a transaction, or see through the end that somebody else has begun.

    Ended is what the coordinator no longer knows. One that is already committing can only be committed, one that is
    already aborting only aborted; END_TXN sent again in that sense is what makes the broker resume it.
    """
    commit = False
    while True:
        try:
            await coordinator.end(txn, commit=commit)
            return
        except ServerRefused as refused:
            if refused.error == ServerError.TRANSACTION_NOT_FOUND:
                if _FOREIGN_ROLE in refused.message:
                    raise OwnerLogBroken(f"transaction {txn} can only be ended by its own role: {refused}") from None
                return
            match state_named_in(refused.message) if refused.error == ServerError.INVALID_TXN_STATUS else None:
                case TransactionState.COMMITTED | TransactionState.ABORTED:
                    return
                case TransactionState.COMMITTING:
                    commit = True
                case TransactionState.ABORTING:
                    commit = False
                case _:
                    if refused.error != ServerError.INVALID_TXN_STATUS and refused.remedy is not Remedy.RETRY:
                        raise
        # Paced, not awaited: the coordinator has no event that tells when a transaction has left its state.
        await asyncio.sleep(END_RETRY_DELAY_S)
