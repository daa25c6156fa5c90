"""Sends the replies: to whoever has asked for them, as far as that costs the sequencer nothing.

A reply is a courtesy, the outcome itself is in the log. So nothing here waits, nothing here ends a partition's life,
and what cannot be sent at once is dropped and counted: the publisher asks again after a time-out of its own, with the
same id, and is told. The replies of a process have a client and so connections of their own, because the broker stops
reading from a connection that sends too much (maxPendingPublishRequestsPerConnection), and nobody's reply may hold
up an outcome.

What the broker (4.2.4) does with them: it takes an entry for a non-persistent topic with the receipt 0:0, passes it on
to whoever is connected and able to read at that moment, and forgets it. Beyond
maxConcurrentNonPersistentMessagePerConnection (1000) entries that are in work on one connection it drops them, which
the receipt -1:-1 tells. A reader that is slow, or gone, costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from types import TracebackType

from sequencer.decide import Outcome
from sequencer.names import Topics
from sequencer.pulsar.client import ClientSettings, Producer, PulsarClient
from sequencer.pulsar.errors import PulsarError, ServerError, ServerRefused
from sequencer.pulsar.frames import MessageId
from sequencer.reply import ReplyRun, reply_entries, reply_runs

MAX_REPLY_TOPICS = 1_000
"""Reply topics that one process knows; beyond it the one that has not been used for longest is closed."""

MAX_OPENING = 32
"""Reply topics that the broker is asked to open at one time; after a takeover all that are in use are opened anew."""

MAX_WAITING_REPLIES = 50_000
"""Replies that wait for one topic to be opened."""

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""The same in bytes, over all topics."""

MAX_UNANSWERED_ENTRIES = 1_000
"""Entries to one topic whose receipts have not come. Beyond as many the broker drops them as well."""

REPLY_IDLE_S = 60.0
"""A reply topic that nothing was sent to for so long is closed, so that the broker may forget it."""

REFUSED_REST_S = 5.0
"""How long a reply topic that could not be opened is left alone."""

REPORT_EVERY_S = 60.0
"""Time between two lines that say how many replies were not sent."""

REPLY_CLIENT = ClientSettings(
    request_timeout_s=10.0, connect_timeout_s=5.0, keep_alive_s=3.0, silent_limit_s=10.0, retry_for_s=2.0
)
"""Shorter than elsewhere: a reply that comes so late is of no use."""

log = logging.getLogger(__name__)


def replies_to(outcomes: Iterable[Outcome], max_message_bytes: int) -> list[ReplyRun]:
    """What `reply_runs` gives; nothing where that fails, for not even a bug in it may keep outcomes from being sent."""
    try:
        return list(reply_runs(outcomes, max_message_bytes))
    except Exception:
        log.exception("a bug kept replies from being made")
        return []


class _Channel:
    """One reply topic: being opened, open, or left alone for a while after a refusal."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.used_at_s = 0.0
        self.rests_until_s = 0.0
        self.opening = False
        self.producer: Producer | None = None
        self.waiting: list[ReplyRun] = []
        self.unanswered = 0


class Replies:
    """The replies of one process, to all who submit to one namespace. Lives on the event loop that it is used on.

    Attributes:
        sent: replies that the broker has taken.
        ignored: outcomes for which a reply was asked on a topic that is not one for replies.
        dropped: replies that were not sent, or of which it is not known.
    """

    def __init__(self, connect: Callable[[], PulsarClient], topics: Topics) -> None:
        """Nothing is opened before the first reply.

        Args:
            connect: makes the client of the replies; its settings should be REPLY_CLIENT.
            topics: whose replies namespace may be written to.
        """
        self.sent = self.ignored = self.dropped = 0
        self._connect = connect
        self._topics = topics
        self._client: PulsarClient | None = None
        self._channels: OrderedDict[str, _Channel] = OrderedDict()  # the one used last at the end
        self._opening = 0
        self._turns = asyncio.Semaphore(MAX_OPENING)
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._reporter: asyncio.TimerHandle | None = None
        self._told: set[str] = set()
        self._reported = (0, 0)

    async def __aenter__(self) -> Replies:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def send(self, runs: Sequence[ReplyRun]) -> None:
        """Send replies, in order. Call it when the outcomes that they speak of are durable.

        Does not wait and does not raise.
        """
        by_topic: dict[str, list[ReplyRun]] = {}
        for run in runs:
            by_topic.setdefault(run.topic, []).append(run)
        try:
            for topic, its_runs in by_topic.items():
                self._reply(topic, its_runs)
        except Exception:  # the outcomes stand: not even a bug in here may end the life that has made them
            log.exception("a bug kept replies from being sent")

    async def close(self) -> None:
        """End everything. Replies that still wait for their topic are dropped; what was sent is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in (self._sweeper, self._reporter):
            if timer is not None:
                timer.cancel()
        if self._client is not None:
            await self._client.close()
        if self.sent or self.ignored or self.dropped:
            log.info("replies: %d sent, %d ignored, %d dropped", self.sent, self.ignored, self.dropped)

    # --- One transaction's replies to one topic ---

    def _reply(self, topic: str, runs: Sequence[ReplyRun]) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            if not self._topics.takes_replies(topic):
                self._ignore(topic, _replies(runs))
                return
            channel = _Channel(topic)
        now_s = asyncio.get_running_loop().time()
        channel.used_at_s = now_s
        if channel.producer is None and not channel.opening and (why_not := self._open(channel, now_s)):
            self._drop(_replies(runs), why_not)
            return
        self._channels.move_to_end(topic)
        if channel.producer is None:
            self._wait(channel, runs)
        else:
            self._send(channel, channel.producer, runs)

    def _wait(self, channel: _Channel, runs: Sequence[ReplyRun]) -> None:
        replies, size = _replies(runs), _size(runs)
        if _replies(channel.waiting) + replies > MAX_WAITING_REPLIES or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._drop(replies, f"too many wait for {channel.topic} to be opened")
            return
        channel.waiting += runs
        self._waiting_bytes += size

    def _send(self, channel: _Channel, producer: Producer, runs: Sequence[ReplyRun]) -> None:
        for output in reply_entries(runs, producer.max_message_size):
            if not producer.writable:
                self._drop(output.num_messages, "the broker does not take in fast enough what is sent to it")
            elif channel.unanswered >= MAX_UNANSWERED_ENTRIES:
                self._drop(output.num_messages, f"too many receipts of {channel.topic} have not come")
            elif len(output.metadata) + len(output.payload) > producer.max_message_size:
                self._drop(output.num_messages, "their broker allows smaller entries than that of the outcomes")
            else:
                channel.unanswered += 1
                receipt = producer.send(*output)
                receipt.add_done_callback(partial(self._answered, channel, output.num_messages))

    def _answered(self, channel: _Channel, replies: int, receipt: asyncio.Future[MessageId]) -> None:
        channel.unanswered -= 1
        failure = receipt.exception()
        if failure is None:
            self.sent += replies
        else:
            self._drop(replies, str(failure))

    # --- Topics ---

    def _open(self, channel: _Channel, now_s: float) -> str:
        """Begin to open a topic. Returns why not, or nothing."""
        if now_s < channel.rests_until_s:
            return f"{channel.topic} could not be opened a moment ago"
        if self._opening >= MAX_REPLY_TOPICS:
            return "too many reply topics are being opened"
        channel.opening = True
        self._opening += 1
        self._channels[channel.topic] = channel
        if len(self._channels) > MAX_REPLY_TOPICS:
            # One is found soon: those that are being opened have been used just now.
            self._close(next(other for other in self._channels.values() if not other.opening))
        self._run(self._opened(channel))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(REPLY_IDLE_S, self._close_idle)
        return ""

    async def _opened(self, channel: _Channel) -> None:
        try:
            async with self._turns:
                if self._client is None:
                    self._client = self._connect()
                # Shared, and made by its first producer or consumer where `init` has allowed that.
                producer = await self._client.producer(channel.topic)
            channel.producer = producer
            producer.lost.add_done_callback(partial(self._lost, channel))
            self._send(channel, producer, self._take_waiting(channel))
        except (PulsarError, OSError) as reason:
            channel.rests_until_s = asyncio.get_running_loop().time() + REFUSED_REST_S
            self._tell_refused(reason)
        finally:
            channel.opening = False
            self._opening -= 1
            if left := self._take_waiting(channel):
                self._drop(_replies(left), f"{channel.topic} was not opened")

    def _take_waiting(self, channel: _Channel) -> list[ReplyRun]:
        waiting, channel.waiting = channel.waiting, []
        self._waiting_bytes -= _size(waiting)
        return waiting

    def _close(self, channel: _Channel) -> None:
        del self._channels[channel.topic]
        producer, channel.producer = channel.producer, None
        if producer is not None:
            self._run(producer.close())

    def _close_idle(self) -> None:
        now_s = asyncio.get_running_loop().time()
        idle = [
            channel
            for channel in self._channels.values()
            if not channel.opening and channel.used_at_s <= now_s - REPLY_IDLE_S
        ]
        for channel in idle:
            self._close(channel)
        self._sweeper = None
        if self._channels:
            self._sweeper = asyncio.get_running_loop().call_later(REPLY_IDLE_S, self._close_idle)

    def _lost(self, channel: _Channel, lost: asyncio.Future[PulsarError]) -> None:
        """Forget a topic whose producer has ended: the next reply opens it anew."""
        log.debug("%s: %s", channel.topic, lost.result())
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- What is not sent ---

    def _ignore(self, topic: object, replies: int) -> None:
        self.ignored += replies
        wanted = self._topics.reply_topic("NAME")
        self._tell("ignored", "replies are ignored: %.200r was asked for, replies go to %s only", topic, wanted)

    def _drop(self, replies: int, reason: str) -> None:
        self.dropped += replies
        self._tell("dropped", "replies are dropped: %s", reason)

    def _tell_refused(self, reason: Exception) -> None:
        namespace, advice = self._topics.replies_namespace, ""
        if isinstance(reason, ServerRefused) and reason.error == ServerError.TOPIC_NOT_FOUND:
            # The topics may have been made by an earlier version.
            advice = f"; `sequencer init` makes the namespace {namespace}"
        elif isinstance(reason, ServerRefused) and reason.error == ServerError.AUTHORIZATION_ERROR:
            advice = f"; the sequencer's role must be allowed to produce in {namespace}"
        self._tell("refused", "replies are dropped: %s%s", reason, advice)
        self._told.add("dropped")

    def _tell(self, kind: str, message: str, *details: object) -> None:
        """Say it the first time; after that, numbers are enough."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning(message, *details)
        if self._reporter is None:
            self._reporter = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def _report(self) -> None:
        self._reporter = None
        ignored, dropped = self.ignored - self._reported[0], self.dropped - self._reported[1]
        self._reported = self.ignored, self.dropped
        log.warning("replies of the last %.0f s: %d ignored, %d dropped", REPORT_EVERY_S, ignored, dropped)


def _replies(runs: Sequence[ReplyRun]) -> int:
    return sum(run.replies for run in runs)


def _size(runs: Sequence[ReplyRun]) -> int:
    return sum(len(run.data) for run in runs)
