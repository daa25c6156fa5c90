"""A consumer or reader: entries in, acknowledgements out, with a bounded buffer between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

from sequencer.pulsar import commands
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.errors import EndpointClosed, ProtocolViolation, PulsarError
from sequencer.pulsar.events import LastMessage
from sequencer.pulsar.frames import Entry, MessageId, TxnId, messages_counted
from sequencer.pulsar.ports import fail
from sequencer.pulsar.pulsar_api_pb2 import CompressionType

RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024
"""What one consumer aims to hold, delivered or allowed to be, of what has not been taken yet."""

RECEIVE_LIMIT_BYTES = 512 * 1024 * 1024
"""What one consumer holds at most. A broker may send one read more than was allowed, and sizes may jump; beyond this
it does not keep to the protocol."""

MAX_PERMITS = 1000
"""Messages that may be allowed ahead. A batched entry counts all its messages, but the broker sends whole entries while
one permit is left, as many as it reads at a time (`dispatcherMaxReadBatchSize`, `dispatcherMaxReadSizeBytes`), so this
does not limit batches."""

MAX_FLOW = 2**31 - 1
"""Permits in one FLOW: the broker closes the connection at more, which it takes for a negative number."""

MIN_PERMITS = 10
"""Messages allowed while nothing is known of their size: ten of the largest still fit."""

ENTRY_OVERHEAD_BYTES = 1024
"""What an entry is taken to cost beyond its bytes, so that empty ones are bounded too."""

MIN_MESSAGE_BYTES = 4
"""What a message of a batch takes at least: the size of its metadata."""

SIZE_DECAY = 1 / 64
"""How fast the assumed message size follows smaller messages; it follows larger ones at once."""


class _Held(NamedTuple):
    entry: Entry
    messages: int
    """As many as it says, and as can be in it."""
    size_bytes: int
    content_bytes: int
    """Of its metadata, and of its payload once decompressed."""


class Consumer:
    """A consumer that the broker has let in. Made by `PulsarClient.subscribe` and `PulsarClient.reader`.

    Attributes:
        topic: the topic (partition) that it consumes.
        lost: done when the consumer has ended, for whatever reason: that reason is the result.
        turn: counts the changes of turns of a failover subscription; with each one, delivery begins anew from what is
            acknowledged, here or at another consumer. It has its first entry only after the broker has given it a turn.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        consumer_id: int,
        after: MessageId | None = None,
        window_messages: int | None = None,
        has_turn: bool = True,
    ) -> None:
        self.topic = topic
        self._window_messages = window_messages
        self.turn = 0
        self._has_turn = has_turn
        # Delivery begins after this entry, while the broker begins with it.
        self._after = None if after is None else after[:2]
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[PulsarError] = self._loop.create_future()
        self._connection = connection
        self._id = consumer_id
        self._held: deque[_Held] = deque()
        self._held_bytes = self._held_messages = self._held_content_bytes = 0
        self._permits = 0
        self._message_bytes = 0.0
        self._started = False
        self._epoch = 0
        self._arrival: asyncio.Future[None] | None = None
        self._filled: tuple[int, int, asyncio.Future[None]] | None = None
        self._reason: PulsarError | None = None
        connection.attach_consumer(consumer_id, self)

    def start(self) -> None:
        """Let the broker deliver. The first `take` does it too."""
        if not self._started and self._reason is None:
            self._started = True
            self._allow_more()

    async def take(self, *, max_messages: int, max_bytes: int) -> list[Entry]:
        """Wait for an entry, then return all that have arrived, in order, within the limits but at least one.

        Nothing is returned where the turn has changed meanwhile, see `turn`.

        Args:
            max_messages: messages in all entries together.
            max_bytes: bytes of all entries together, once decompressed.

        Raises:
            PulsarError: why the consumer has ended; entries that were not taken are gone.
        """
        assert self._arrival is None, "somebody else is already waiting in take()"
        self.start()
        turn = self.turn
        while (not self._held and self.turn == turn) or self._reason is not None:
            if self._reason is not None:
                raise self._reason
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        if self.turn != turn:
            return []
        held = self._held
        taken: list[Entry] = []
        while held:
            entry, messages, size_bytes, content_bytes = held[0]
            max_messages -= messages
            max_bytes -= content_bytes
            if taken and (max_messages < 0 or max_bytes < 0):
                break
            held.popleft()
            self._held_bytes -= size_bytes
            self._held_messages -= messages
            self._held_content_bytes -= content_bytes
            taken.append(entry)
        self._allow_more()
        return taken

    async def filled(self, *, messages: int, content_bytes: int) -> None:
        """Wait until so much has arrived that has not been taken, or the consumer has ended.

        Args:
            messages: in all entries together, or
            content_bytes: of all entries together, once decompressed.
        """
        assert self._filled is None, "somebody else is already waiting in filled()"
        self.start()
        while not self._holds(messages, content_bytes) and self._reason is None:
            future: asyncio.Future[None] = self._loop.create_future()
            self._filled = messages, content_bytes, future
            try:
                await future
            finally:
                self._filled = None

    def _holds(self, messages: int, content_bytes: int) -> bool:
        return self._held_messages >= messages or self._held_content_bytes >= content_bytes

    def ack(self, ids: Sequence[MessageId], *, txn: TxnId | None = None) -> asyncio.Future[None]:
        """Acknowledge whole entries, each by itself, in one command: all or none of them.

        The future fails with ServerRefused, RequestTimedOut, or the reason why the connection ended.

        Args:
            ids: at least one.
            txn: the transaction that it belongs to; the subscription must have been added to it.
        """
        if self._reason is not None:
            future: asyncio.Future[None] = self._loop.create_future()
            fail(future, self._reason)
            return future
        assert ids, "nothing to acknowledge"
        answer = self._connection.start(commands.ack(self._id, ids, txn), f"ACK on {self.topic}")
        return cast("asyncio.Future[None]", answer)

    def ack_up_to(self, message_id: MessageId, batch_size: int) -> asyncio.Future[None]:
        """Acknowledge a message and everything before it, for good; of its batch the rest stays unacknowledged.

        Never on a subscription whose acknowledgements are part of transactions. The future fails as that of `ack`.

        Args:
            message_id: batch index -1 stands for the whole entry.
            batch_size: messages in its entry.
        """
        if self._reason is not None:
            future: asyncio.Future[None] = self._loop.create_future()
            fail(future, self._reason)
            return future
        answer = self._connection.start(commands.ack_up_to(self._id, message_id, batch_size), f"ACK on {self.topic}")
        return cast("asyncio.Future[None]", answer)

    async def last_message_id(self) -> MessageId:
        """The last message that can be read now; ledger -1 where there is none.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost.
        """
        return (await self.bounds()).message_id

    async def bounds(self) -> LastMessage:
        """The last message that can be read now, and the entry that delivery began, or begins, after.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost.
        """
        if self._reason is not None:
            raise self._reason
        command = commands.get_last_message_id(self._id)
        bounds = await self._connection.ask(command, f"GET_LAST_MESSAGE_ID of {self.topic}", LastMessage)
        message_id, acknowledged = bounds
        if self._after and acknowledged and acknowledged[:2] < self._after <= message_id[:2]:
            return LastMessage(message_id, MessageId(*self._after))
        return bounds

    async def redeliver(self) -> None:
        """Have everything delivered again that is not acknowledged. What arrived before is dropped.

        Only for a consumer that is at rest, everything delivered: a broker (4.2.4) that is reading entries for it at
        that moment may skip those for good. Where that cannot be known, close the consumer and subscribe again.

        Raises:
            PulsarError: why the consumer has ended.
        """
        if self._reason is not None:
            raise self._reason
        self._forget_held()
        self._epoch += 1
        self._connection.tell(commands.redeliver(self._id, self._epoch))
        if self._started:
            self._allow_more()
        await self._connection.drain()

    async def close(self) -> None:
        """Close the consumer. Returns when the broker has let go of the subscription."""
        if self._reason is not None:
            return
        self._end(EndpointClosed(f"the consumer of {self.topic} was closed by this client"))
        # Whatever goes wrong here, the consumer is gone, or will be with its connection.
        with contextlib.suppress(PulsarError):
            await self._connection.start(commands.close_consumer(self._id), f"CLOSE_CONSUMER of {self.topic}")

    # --- The connection's side ---

    def on_entry(self, entry: Entry, consumer_epoch: int) -> None:
        """An entry has been delivered."""
        metadata_bytes = 0 if entry.damage else entry.metadata.ByteSize()
        size_bytes = len(entry.payload) + metadata_bytes + ENTRY_OVERHEAD_BYTES
        counted = messages_counted(entry)
        self._permits = _as_int32(self._permits - counted)
        messages = max(1, counted)
        if consumer_epoch < self._epoch or entry.message_id[:2] == self._after or not self._has_turn:
            # It was on its way when redelivery was asked for, or the turn changed, and comes again; or it is where a
            # reader left off.
            self._allow_more()
            return
        per_message = size_bytes / messages
        if per_message > self._message_bytes:
            self._message_bytes = per_message
        else:
            self._message_bytes += (per_message - self._message_bytes) * SIZE_DECAY
        content_bytes = metadata_bytes + _opened_bytes(entry)
        # Nobody's claim may make a transaction of its own out of a small entry.
        messages = min(messages, content_bytes // MIN_MESSAGE_BYTES + 1)
        self._held.append(_Held(entry, messages, size_bytes, content_bytes))
        self._held_bytes += size_bytes
        self._held_messages += messages
        self._held_content_bytes += content_bytes
        if self._held_bytes > RECEIVE_LIMIT_BYTES:
            self._connection.drop(ProtocolViolation(f"{self.topic}: more than {RECEIVE_LIMIT_BYTES} bytes delivered"))
            return
        self._wake()
        self._allow_more()

    def on_turn_changed(self, active: bool) -> None:
        """Of a failover subscription: what has not been taken comes again, to whoever has the turn."""
        self.turn += 1
        self._has_turn = active
        self._forget_held()
        self._wake()
        if self._started:
            self._allow_more()

    def on_closed(self, reason: PulsarError) -> None:
        """The broker has closed the consumer, or the connection has ended."""
        self._end(reason)

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        if self._filled is not None:
            messages, content_bytes, future = self._filled
            if not future.done() and (self._reason is not None or self._holds(messages, content_bytes)):
                future.set_result(None)

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_bytes = self._held_messages = self._held_content_bytes = 0

    def _allow_more(self) -> None:
        """Grant permits when half of what may be under way has been used up, so that FLOWs stay few."""
        if self._window_messages is not None:
            wanted = self._window_messages
        elif self._message_bytes:
            wanted = min(MAX_PERMITS, int((RECEIVE_BUFFER_BYTES - self._held_bytes) / self._message_bytes))
        else:
            wanted = MIN_PERMITS
        if not self._held:
            # A single message may be larger than the buffer: something must always be allowed.
            wanted = max(wanted, 1)
        if self._permits * 2 > wanted or wanted <= 0 or self._reason is not None:
            return
        while (missing := wanted - self._permits) > 0:
            granted = min(missing, MAX_FLOW)
            self._connection.tell(commands.flow(self._id, granted))
            self._permits += granted

    def _end(self, reason: PulsarError) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._connection.detach_consumer(self._id)
        self._forget_held()
        self._wake()
        if not self.lost.done():
            self.lost.set_result(reason)


def _opened_bytes(entry: Entry) -> int:
    """What the payload is once it is opened. How large it is inside says its metadata, which is believed only where it
    will be opened to that size."""
    metadata, size = entry.metadata, len(entry.payload)
    if entry.damage or metadata.encryption_keys or metadata.compression == CompressionType.NONE:
        return size
    return max(size, metadata.uncompressed_size)


def _as_int32(number: int) -> int:
    """The number as the broker's counter has it, which wraps round at 32 bits."""
    return (number + 2**31) % 2**32 - 2**31
