"""Appends on their way: one life after another, each with connections of its own, until every append has its answer.

    a life:  listen for replies  →  one producer per partition  →  send what is unanswered, then what comes
                 ↑______________________________________________________|   anything lost: all anew, after a pause

Nothing is repaired within a life. What the last one left unanswered is sent again by the next, in order and with the
same ids; `answer` says which of the replies is the answer, and `lane` what is sent when. The producers'
name stays the same: the broker lets the new one in only when the old one is gone, so what an old connection still
delivers cannot come after it in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from sequencer.client.answer import Attempts, read_replies
from sequencer.client.errors import OutcomeUnknown
from sequencer.client.lane import Lane
from sequencer.client.lives import Lives, pulsar_client
from sequencer.client.message import Message, batch_of
from sequencer.client.values import StoreSettings
from sequencer.event import OUTCOME_BYTES
from sequencer.names import Topics
from sequencer.pulsar.client import LATEST, Consumer, Producer, PulsarClient
from sequencer.pulsar.errors import ServerError, ServerRefused
from sequencer.pulsar.frames import MessageId
from sequencer.reply import Reply

MAX_ENTRIES_UNDER_WAY = 2
"""Entries of one partition that wait for their receipts. What is appended meanwhile goes out together in the next."""

REPLY_WINDOW_MESSAGES = 100_000
"""Replies that the broker may deliver ahead: it drops what exceeds it. More than the appends that are under way."""

TAKE_MESSAGES = 10_000
TAKE_BYTES = 16 * 1024 * 1024
"""Replies that are read in one go."""

OVERDUE_CHECK_S = 0.25
"""How often, while anything is unanswered, it is looked for replies that are overdue."""

NAME_TAKEN_LIMIT_S = 20.0
"""How long to wait for the broker to notice that the last life's producer is gone; its probe takes 5 s."""
NAME_TAKEN_PAUSE_S = 0.2

QUOTA_EXCEEDED = frozenset(
    {ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_ERROR, ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_EXCEPTION}
)
QUOTA_PAUSE_S = 1.0
"""A partition whose backlog has reached its quota takes no producer; it is asked again so often, until it does."""


class Append:
    """One append from its call to its answer.

    Attributes:
        answered: done with the final reply, or with why there will be none.
    """

    def __init__(self, key: str, message: Message, partition: Partition) -> None:
        self.key = key
        self.message = message
        self.partition = partition
        self.attempts = Attempts()
        self.answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.size_bytes = 4 + len(message.head) + len(message.payload)  # as it stands in a batch
        self.events = len(message.ids)
        self.due_at_s = 0.0
        self.sent = 0

    def unknown(self, why: str) -> OutcomeUnknown:
        """What to raise where there is no answer."""
        return OutcomeUnknown(self.key, self.message.ids, self.sent, why)


class Partition:
    """A partition of `submitted_events` and what is to be sent there."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.lane: Lane[Append] = Lane()
        self.wake = asyncio.Event()


class Appender:
    """Sends the appends of one store and finds their answers. Lives on the event loop that it was made on."""

    def __init__(self, settings: StoreSettings, topics: Topics, partitions: int) -> None:
        """`start` begins its work; `close` ends it."""
        name = uuid4().hex
        self.reply_topic = f"non-persistent://{topics.replies_namespace}/{name}"
        self._settings = settings
        self._producer_name = f"append-{name}"
        self._partitions = [Partition(topics.submitted_partition(n)) for n in range(partitions)]
        self._under_way: dict[str, list[Append]] = {}
        """By the id in their replies: usually one, several where the same event is appended several times at once."""
        self._any_under_way = asyncio.Event()
        self._lives = Lives("appends", self._one_life, self._give_up)

    async def start(self) -> None:
        """Begin. Returns when the first life listens for replies.

        Raises:
            PulsarError: it came to nothing.
        """
        await self._lives.start()

    async def close(self) -> None:
        """End it. Whoever still waits for an answer gets OutcomeUnknown."""
        await self._lives.close()

    def submit(self, key: str, message: Message, partition: int) -> Append:
        """Take an append on; it is sent in the order of the calls. `forget` has to follow."""
        append = Append(key, message, self._partitions[partition])
        if not self._lives.running:
            append.answered.set_exception(append.unknown("the store is closed"))
            return append
        append.partition.lane.add(append)
        append.partition.wake.set()
        self._under_way.setdefault(message.id_text, []).append(append)
        self._any_under_way.set()
        return append

    def forget(self, append: Append) -> None:
        """It has its answer, or nobody waits for it any more."""
        append.partition.lane.discard(append)
        same_id = self._under_way.get(append.message.id_text)
        if same_id is not None and append in same_id:
            same_id.remove(append)
            if not same_id:
                del self._under_way[append.message.id_text]

    def why_unanswered(self) -> str:
        """In words: what is the matter, where an append has waited in vain."""
        failure = self._lives.failure
        return "no answer in time" if failure is None else f"no answer in time (Pulsar: {failure})"

    # --- A life ---

    async def _one_life(self) -> None:
        async with pulsar_client(self._settings) as client:
            replies = await client.reader(self.reply_topic, start=LATEST, window_messages=REPLY_WINDOW_MESSAGES)
            replies.start()
            self._lives.begun()
            async with asyncio.TaskGroup() as life:
                life.create_task(self._hear(replies))
                life.create_task(self._remind())
                for partition in self._partitions:
                    partition.lane.begin_anew()
                    life.create_task(self._send(client, partition))

    async def _hear(self, replies: Consumer) -> None:
        """Hand every reply to the appends that it may be meant for."""
        while True:
            for entry in await replies.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES):
                for reply in read_replies(entry):
                    for append in tuple(self._under_way.get(reply.id, ())):
                        append.attempts.replied(reply)
                        self._settle(append)

    async def _remind(self) -> None:
        """Have sent again what has waited for its reply for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await self._any_under_way.wait()
            await asyncio.sleep(OVERDUE_CHECK_S)
            for partition in self._partitions:
                if partition.lane.collect_overdue(loop.time()):
                    partition.wake.set()
            if not self._under_way:
                self._any_under_way.clear()

    async def _send(self, client: PulsarClient, partition: Partition) -> None:
        """Send what a partition's lane gives, as long as the producer lives."""
        lane, wake = partition.lane, partition.wake
        while not lane.has_work:
            wake.clear()
            await wake.wait()
        producer = await self._open_producer(client, partition)
        producer.lost.add_done_callback(lambda _: wake.set())
        under_way: set[asyncio.Future[MessageId]] = set()
        while not producer.lost.done():
            wake.clear()
            while lane.has_work and len(under_way) < MAX_ENTRIES_UNDER_WAY:
                receipt = self._send_batch(producer, lane)
                if receipt is not None:
                    under_way.add(receipt)
                    receipt.add_done_callback(under_way.discard)
                    receipt.add_done_callback(lambda _: wake.set())
                await producer.drain()
            await wake.wait()
        raise producer.lost.result()

    async def _open_producer(self, client: PulsarClient, partition: Partition) -> Producer:
        """A producer of our name. While the broker has not noticed the end of the last one, it says that it is busy.

        What is full, since its owner is stopped, say, is waited for here: to end the life would take the answers from
        all other partitions.
        """
        give_up_at_s = asyncio.get_running_loop().time() + NAME_TAKEN_LIMIT_S
        while True:
            try:
                return await client.producer(partition.topic, name=self._producer_name)
            except ServerRefused as refused:
                pause_s = NAME_TAKEN_PAUSE_S
                if refused.error in QUOTA_EXCEEDED:
                    pause_s = QUOTA_PAUSE_S
                elif refused.error != ServerError.PRODUCER_BUSY or asyncio.get_running_loop().time() > give_up_at_s:
                    raise
            await asyncio.sleep(pause_s)

    def _send_batch(self, producer: Producer, lane: Lane[Append]) -> asyncio.Future[MessageId] | None:
        """Send the next entry and return the future of its receipt; None where nothing of it may be sent."""
        batch: list[Append] = []
        limit = producer.max_message_size - OUTCOME_BYTES
        for append in lane.next_batch(asyncio.get_running_loop().time(), limit):
            if append.size_bytes > limit:
                self._fail(append, ValueError(f"{append.key}: {append.size_bytes} bytes, the broker takes {limit}"))
            else:
                batch.append(append)
        if not batch:
            return None
        attempts = [append.attempts.begin() for append in batch]
        receipt = producer.send(*batch_of([append.message for append in batch], self.reply_topic), len(batch))
        receipt.add_done_callback(lambda done: self._stored(batch, attempts, done))
        return receipt

    def _stored(self, batch: Sequence[Append], attempts: Sequence[int], receipt: asyncio.Future[MessageId]) -> None:
        if receipt.cancelled() or receipt.exception() is not None:
            return  # the producer says so too
        at = receipt.result()
        for index, (append, attempt) in enumerate(zip(batch, attempts, strict=True)):
            append.attempts.stored(attempt, at._replace(batch_index=index))
            self._settle(append)

    # --- The ends ---

    def _settle(self, append: Append) -> None:
        answer = append.attempts.answer
        if answer is not None and not append.answered.done():
            append.answered.set_result(answer)
            self.forget(append)

    def _fail(self, append: Append, why: Exception) -> None:
        if not append.answered.done():
            append.answered.set_exception(why)
        self.forget(append)

    def _give_up(self) -> None:
        for same_id in list(self._under_way.values()):
            for append in tuple(same_id):
                self._fail(append, append.unknown(f"there will be no answer ({self._lives.failure})"))
