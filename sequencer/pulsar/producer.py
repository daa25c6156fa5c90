"""A producer: entries out, receipts in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NamedTuple

from sequencer.pulsar import commands
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.errors import EndpointClosed, NotStored, PulsarError, RequestTimedOut, SendFailed
from sequencer.pulsar.events import ProducerGrant
from sequencer.pulsar.frames import MessageId, TxnId, partition_index
from sequencer.pulsar.ports import fail
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata

MAX_PENDING_SENDS = 100_000
"""Entries of one producer that may wait for their receipts."""


class _Pending(NamedTuple):
    future: asyncio.Future[MessageId]
    due_at_s: float


class Producer:
    """A producer that the broker has let in. Made by `PulsarClient.producer`.

    Attributes:
        topic: the topic (partition) that it produces to.
        name: its name in the broker.
        topic_epoch: rises with each exclusive producer of the topic.
        max_message_size: bytes of metadata and payload that one entry may have on this broker.
        lost: done when the producer has ended, for whatever reason: that reason is the result. Sends that then still
            wait for a receipt have failed.
    """

    def __init__(self, connection: Connection, topic: str, producer_id: int, grant: ProducerGrant) -> None:
        self.topic = topic
        self.name = grant.name
        self.topic_epoch = grant.topic_epoch
        self.max_message_size = connection.max_message_bytes
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[PulsarError] = self._loop.create_future()
        self._connection = connection
        # A receipt does not say which partition it speaks of, while a delivery does.
        self._partition = partition_index(topic)
        self._id = producer_id
        # Where the broker removes repeats, it compares with the last sequence id of this producer's name.
        self._next_sequence_id = grant.last_sequence_id + 1
        self._pending: dict[int, _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reason: PulsarError | None = None
        self._name_field = MessageMetadata(producer_name=grant.name).SerializePartialToString()
        connection.attach_producer(producer_id, self)

    def send(
        self, metadata: bytes, payload: bytes, num_messages: int, *, txn: TxnId | None = None
    ) -> asyncio.Future[MessageId]:
        """Write one entry and return the future of its receipt. Does not wait; see `drain`.

        Args:
            metadata: serialized MessageMetadata without producer_name, sequence_id, publish_time and txnid_*: they are
                appended here, which protobuf allows.
            payload: as it shall be stored, compressed if the metadata says so.
            num_messages: messages in it, 1 unless it is a batch.
            txn: the transaction that it belongs to; the topic must have been added to it.

        The future fails with SendFailed, NotStored, RequestTimedOut, or the reason why the producer ended.

        Raises:
            ValueError: metadata and payload together are larger than `max_message_size`: the broker would close the
                connection.
        """
        if len(metadata) + len(payload) > self.max_message_size:
            raise ValueError(f"{len(metadata) + len(payload)} bytes, allowed are {self.max_message_size}")
        future: asyncio.Future[MessageId] = self._loop.create_future()
        if self._reason is not None:
            fail(future, self._reason)
            return future
        assert len(self._pending) < MAX_PENDING_SENDS, "nobody waits for receipts"
        sequence_id = self._next_sequence_id
        self._next_sequence_id += 1
        added = MessageMetadata(sequence_id=sequence_id, publish_time=time.time_ns() // 1_000_000)
        if txn is not None:
            added.txnid_most_bits, added.txnid_least_bits = txn
        due_at_s = self._loop.time() + self._connection.settings.request_timeout_s
        self._pending[sequence_id] = _Pending(future, due_at_s)
        if self._timer is None:
            self._timer = self._loop.call_at(due_at_s, self._check_oldest)
        complete = b"%b%b%b" % (metadata, self._name_field, added.SerializePartialToString())
        self._connection.send(commands.send(self._id, sequence_id, num_messages, txn), complete, payload)
        return future

    @property
    def writable(self) -> bool:
        """Whether `drain` would return at once: the connection has not too much unsent."""
        return self._connection.writable

    async def drain(self) -> None:
        """Wait while the connection has too much unsent.

        Raises:
            PulsarError: why the connection has ended.
        """
        await self._connection.drain()

    async def close(self) -> None:
        """Close the producer; what still waits for a receipt fails. Returns when the broker has let go of the topic."""
        if self._reason is not None:
            return
        self._end(EndpointClosed(f"the producer of {self.topic} was closed by this client"))
        # Whatever goes wrong here, the producer is gone, or will be with its connection.
        with contextlib.suppress(PulsarError):
            await self._connection.start(commands.close_producer(self._id), f"CLOSE_PRODUCER of {self.topic}")

    # --- The connection's side ---

    def on_stored(self, sequence_id: int, message_id: MessageId) -> None:
        """A receipt has come."""
        pending = self._pending.pop(sequence_id, None)
        if pending is None or pending.future.done():
            return
        if message_id.ledger < 0:
            fail(pending.future, NotStored(f"{self.topic}: entry {sequence_id} was taken for a repeat, not stored"))
        else:
            pending.future.set_result(message_id._replace(partition=self._partition))

    def on_send_refused(self, sequence_id: int, error: int, message: str) -> None:
        """One SEND was refused. What was sent after it must not be stored without it, so the producer ends."""
        refused = SendFailed(f"SEND to {self.topic}", error, message)
        pending = self._pending.pop(sequence_id, None)
        if pending is not None:
            fail(pending.future, refused)
        self._abandon(refused)

    def on_closed(self, reason: PulsarError) -> None:
        """The broker has closed the producer, or the connection has ended."""
        self._end(reason)

    def _check_oldest(self) -> None:
        self._timer = None
        if not self._pending:
            return
        oldest = next(iter(self._pending.values()))
        if oldest.due_at_s <= self._loop.time():
            seconds = self._connection.settings.request_timeout_s
            self._abandon(RequestTimedOut(f"SEND to {self.topic}: no receipt within {seconds} s"))
        else:
            self._timer = self._loop.call_at(oldest.due_at_s, self._check_oldest)

    def _abandon(self, reason: PulsarError) -> None:
        """End the producer on our own account; the broker is told, lest it keeps the topic for us."""
        if self._reason is None:
            self._end(reason)
            self._connection.start(commands.close_producer(self._id), f"CLOSE_PRODUCER of {self.topic}")

    def _end(self, reason: PulsarError) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._connection.detach_producer(self._id)
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            fail(waiting.future, reason)
        if not self.lost.done():
            self.lost.set_result(reason)
