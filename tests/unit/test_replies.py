"""What replies may cost: every limit, and what is said of replies that are not sent. The broker is a stand-in here."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from sequencer import replies as module
from sequencer.decide import Outcome
from sequencer.event import Accepted, Forwarded, Reason, Rejected, Source, Submission
from sequencer.names import Topics
from sequencer.plain import AcceptedRun
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import EndpointClosed, LookupFailed, NotStored, PulsarError, ServerError
from sequencer.pulsar.frames import MessageId
from sequencer.pulsar.ports import fail
from sequencer.replies import Replies, replies_to
from tests.judged import columns
from tests.submitted import ID, KEY, MAX_MESSAGE_BYTES, message

TOPICS = Topics("shop/orders")
TILL = TOPICS.reply_topic("till")
OFFICE = TOPICS.reply_topic("office")
SOURCE = Source("8:22:3:", 0, b"", None)
TAKEN = MessageId(0, 0)


def submission(topic: str) -> Submission:
    head, payload = message(b"{}")
    return Submission(KEY, b"i" * 16, ID, 3, head, None, payload, SOURCE, 5, reply_to=topic)


def accepted(topic: str, *sequences: int) -> list[Accepted]:
    return [Accepted(submission(topic), sequence, sequence) for sequence in sequences]


def send(replies: Replies, outcomes: Iterable[Outcome]) -> None:
    """As when a transaction with these outcomes has been committed."""
    replies.send(replies_to(outcomes, MAX_MESSAGE_BYTES))


class StandInProducer:
    """Keeps what is sent; a test decides about receipts."""

    max_message_size = MAX_MESSAGE_BYTES

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.lost: asyncio.Future[PulsarError] = asyncio.get_running_loop().create_future()
        self.writable = True
        self.sent: list[list[int]] = []  # the sequences in each entry
        self.receipts: list[asyncio.Future[MessageId]] = []
        self.closed = asyncio.Event()

    def send(self, metadata: bytes, payload: bytes, num_messages: int) -> asyncio.Future[MessageId]:
        replies = [json.loads(body) for _, _, body in split_batch(payload, num_messages)]
        self.sent.append([reply.get("sequence", -1) for reply in replies])
        self.receipts.append(asyncio.get_running_loop().create_future())
        return self.receipts[-1]

    async def close(self) -> None:
        self.lost.set_result(EndpointClosed("closed by this client"))
        self.closed.set()


class StandIn:
    """A client whose producers are let in when a test says so; `refusal` is what the next ones get instead."""

    def __init__(self) -> None:
        self.let_in = asyncio.Event()
        self.let_in.set()
        self.refusal: PulsarError | None = None
        self.asked: list[str] = []
        self.opened: list[StandInProducer] = []
        self.closed = False

    async def producer(self, topic: str) -> StandInProducer:
        self.asked.append(topic)
        await self.let_in.wait()
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(StandInProducer(topic))
        return self.opened[-1]

    async def close(self) -> None:
        self.closed = True

    @property
    def last(self) -> StandInProducer:
        return self.opened[-1]


Story = Callable[[StandIn, Replies], Coroutine[None, None, None]]


def tell(story: Story) -> Replies:
    """Run a story, and return what is left of the replies after their end."""

    async def run() -> Replies:
        broker = StandIn()
        async with Replies(lambda: cast(PulsarClient, broker), TOPICS) as replies:
            await story(broker, replies)
        return replies

    return asyncio.run(run())


async def settled() -> None:
    """Everything that can happen without anybody else has happened."""
    for _ in range(10):
        await asyncio.sleep(0)


def counts(replies: Replies) -> tuple[int, int, int]:
    return replies.sent, replies.ignored, replies.dropped


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what is sent ---


def test_nothing_is_opened_where_nobody_asks() -> None:
    async def story() -> Replies:
        def connect() -> PulsarClient:
            raise AssertionError("nobody has asked for a reply")

        async with Replies(connect, TOPICS) as replies:
            send(replies, [])
            send(replies, [*accepted("", 0, 1), Forwarded(submission(TILL), 2)])
            await settled()
        return replies

    assert counts(asyncio.run(story())) == (0, 0, 0)


def test_replies_wait_for_their_topic_and_then_go_in_order() -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        broker.let_in.clear()
        send(replies, [*accepted(TILL, 0), *accepted("", 7), *accepted(OFFICE, 1), *accepted(TILL, 2)])
        send(replies, accepted(TILL, 3))
        await settled()
        assert broker.asked == [TILL, OFFICE]
        broker.let_in.set()
        await settled()
        send(replies, accepted(TILL, 4, 5))
        till, office = broker.opened
        assert till.sent == [[0, 2, 3], [4, 5]]
        assert office.sent == [[1]]
        for receipt in (*till.receipts, *office.receipts):
            receipt.set_result(TAKEN)
        await settled()

    assert counts(tell(story)) == (6, 0, 0)


def test_every_outcome_is_told() -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        repeated = Rejected(submission(TILL), Reason.DUPLICATE, accepted=7, accepted_last=7, accepted_sequence=9)
        refused = Rejected(submission(TILL), Reason.WRONG_EXPECTED_VERSION)
        send(replies, [*accepted(TILL, 4), repeated, refused, Forwarded(submission(TILL), 2)])
        await settled()
        assert broker.last.sent == [[4, 9, -1]]

    tell(story)


def test_a_run_is_told_message_by_message_where_its_batch_asks_for_it() -> None:
    def run(topic: str, versions: range, sequence: int) -> AcceptedRun:
        asking = [replace(submission(topic), source=SOURCE._replace(reply_to=topic)) for _ in versions]
        return AcceptedRun(columns(asking), versions, sequence)

    async def story(broker: StandIn, replies: Replies) -> None:
        refused = Rejected(submission(TILL), Reason.WRONG_EXPECTED_VERSION)
        send(replies, [run(TILL, range(4, 7), 100), refused, run("", range(3), 103), *accepted(TILL, 106)])
        await settled()
        assert broker.last.sent == [[100, 101, 102, -1, 106]]

    tell(story)


def test_a_foreign_topic_is_ignored_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    foreign: Any = ["persistent://shop/orders/events", "non-persistent://other/orders-replies/a", b"\xff", "x" * 10**6]

    async def story(broker: StandIn, replies: Replies) -> None:
        for topic in foreign:
            send(replies, accepted(topic, 0, 1))
        await settled()
        assert broker.asked == []

    assert counts(tell(story)) == (0, 8, 0)
    assert said(caplog) == [
        "replies are ignored: 'persistent://shop/orders/events' was asked for, "
        "replies go to non-persistent://shop/orders-replies/NAME only"
    ]


# --- limits ---


def test_replies_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_REPLIES", 5)

    async def story(broker: StandIn, replies: Replies) -> None:
        broker.let_in.clear()
        for sequence in range(0, 20, 2):
            send(replies, accepted(TILL, sequence, sequence + 1))
        send(replies, accepted(OFFICE, 50))
        broker.let_in.set()
        await settled()
        assert [producer.sent for producer in broker.opened] == [[[0, 1, 2, 3]], [[50]]]

    assert tell(story).dropped == 16


def test_bytes_that_wait_are_bounded_over_all_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1_000)

    async def story(broker: StandIn, replies: Replies) -> None:
        for _ in range(2):  # what was sent makes room again
            broker.let_in.clear()
            for number in range(30):
                send(replies, accepted(TOPICS.reply_topic(f"till-{number}"), number))
            assert 20 < replies.dropped <= 29
            broker.let_in.set()
            await settled()
            waited = sum(len(producer.sent) for producer in broker.opened)
            assert waited == 30 - replies.dropped
            for producer in broker.opened:
                producer.lost.set_result(EndpointClosed("unloaded"))
            broker.opened.clear()
            replies.dropped = 0
            await settled()

    tell(story)


def test_few_topics_are_opened_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPENING", 2)

    async def story(broker: StandIn, replies: Replies) -> None:
        broker.let_in.clear()
        for number in range(10):
            send(replies, accepted(TOPICS.reply_topic(f"till-{number}"), number))
        await settled()
        assert len(broker.asked) == 2
        broker.let_in.set()
        await settled()
        assert sorted(producer.sent for producer in broker.opened) == [[[number]] for number in range(10)]

    assert tell(story).dropped == 0


def test_topics_that_are_being_opened_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_TOPICS", 2)

    async def story(broker: StandIn, replies: Replies) -> None:
        broker.let_in.clear()
        for number in range(10):
            send(replies, accepted(TOPICS.reply_topic(f"till-{number}"), number))
        await settled()
        assert len(broker.asked) == len(replies._channels) == 2
        assert replies.dropped == 8
        broker.let_in.set()
        await settled()
        send(replies, accepted(TOPICS.reply_topic("till-9"), 9))
        await settled()
        assert [producer.sent for producer in broker.opened] == [[[0]], [[1]], [[9]]]

    tell(story)


def test_the_topic_that_was_not_used_for_longest_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_TOPICS", 3)
    names = [TOPICS.reply_topic(name) for name in "abcd"]

    async def story(broker: StandIn, replies: Replies) -> None:
        for topic in names[:3]:
            send(replies, accepted(topic, 0))
            await settled()
        send(replies, accepted(names[0], 1))
        send(replies, accepted(names[3], 0))
        await settled()
        assert [producer.topic for producer in broker.opened if producer.closed.is_set()] == [names[1]]
        send(replies, [*accepted(names[0], 2), *accepted(names[2], 1), *accepted(names[3], 1)])
        assert broker.asked == names
        send(replies, accepted(names[1], 1))
        await settled()
        assert broker.asked == [*names, names[1]]
        assert len(replies._channels) == 3

    assert tell(story).dropped == 0


def test_nothing_is_sent_to_a_broker_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted(TILL, 0))
        await settled()
        broker.last.writable = False
        for sequence in range(1, 100):
            send(replies, accepted(TILL, sequence))
        broker.last.writable = True
        send(replies, accepted(TILL, 100))
        assert broker.last.sent == [[0], [100]]

    assert tell(story).dropped == 99
    assert said(caplog) == ["replies are dropped: the broker does not take in fast enough what is sent to it"]


def test_entries_without_a_receipt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNANSWERED_ENTRIES", 3)

    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted(TILL, 0))
        await settled()
        for sequence in range(1, 10):
            send(replies, accepted(TILL, sequence))
        assert broker.last.sent == [[0], [1], [2]]
        broker.last.receipts[0].set_result(TAKEN)
        await settled()
        send(replies, accepted(TILL, 10))
        assert broker.last.sent == [[0], [1], [2], [10]]

    assert tell(story).dropped == 7


def test_what_is_too_large_for_the_broker_of_the_replies_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted(TILL, 0))
        await settled()
        broker.last.max_message_size = 1_500
        asking = [replace(submission(TILL), source=SOURCE._replace(reply_to=TILL)) for _ in range(20)]
        send(replies, [AcceptedRun(columns(asking), range(20), 1), *accepted(TILL, 21)])
        assert broker.last.sent == [[0], [21]]

    assert tell(story).dropped == 20
    assert said(caplog) == ["replies are dropped: their broker allows smaller entries than that of the outcomes"]


def test_a_topic_that_is_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_IDLE_S", 0.01)

    async def story(broker: StandIn, replies: Replies) -> None:
        for number in range(2):
            send(replies, accepted(TILL, number))
            await settled()
            await asyncio.wait_for(broker.last.closed.wait(), 5.0)
            assert broker.last.sent == [[number]]
        assert len(broker.opened) == 2

    tell(story)


# --- what goes wrong ---


def test_a_topic_that_is_refused_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        broker.refusal = LookupFailed(f"LOOKUP of {TILL}", ServerError.TOPIC_NOT_FOUND, "Namespace not found")
        for sequence in range(10):
            send(replies, accepted(TILL, sequence))
            await settled()
        assert broker.asked == [TILL]
        assert replies.dropped == 10
        broker.refusal = None
        send(replies, accepted(OFFICE, 10))
        await settled()
        replies._channels[TILL].rests_until_s = asyncio.get_running_loop().time()
        send(replies, accepted(TILL, 11))
        await settled()
        assert [producer.sent for producer in broker.opened] == [[[10]], [[11]]]

    assert tell(story).dropped == 10
    assert said(caplog) == [
        f"replies are dropped: LOOKUP of {TILL}: TOPIC_NOT_FOUND: Namespace not found; "
        "`sequencer init` makes the namespace shop/orders-replies"
    ]


def test_a_topic_that_is_lost_is_opened_anew() -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted(TILL, 0, 1))
        await settled()
        fail(broker.last.receipts[0], EndpointClosed("unloaded"))
        broker.last.lost.set_result(EndpointClosed("unloaded"))
        await settled()
        send(replies, accepted(TILL, 2))
        await settled()
        assert [producer.sent for producer in broker.opened] == [[[0, 1]], [[2]]]

    assert tell(story).dropped == 2


def test_what_the_broker_drops_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        for sequence in range(3):
            send(replies, accepted(TILL, sequence))
            await settled()
        fail(broker.last.receipts[0], NotStored("not taken"))
        broker.last.receipts[1].set_result(TAKEN)
        await settled()
        send(replies, accepted(TILL, 3))
        assert broker.last.sent == [[0], [1], [2], [3]]

    assert counts(tell(story)) == (1, 0, 1)
    assert said(caplog) == ["replies are dropped: not taken"]


def test_a_bug_does_not_reach_the_life(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted(TILL, 0))
        await settled()
        broker.last.send = None  # type: ignore[assignment, method-assign]
        send(replies, accepted(TILL, 1))

    tell(story)
    assert said(caplog) == ["a bug kept replies from being sent"]


def test_a_bug_does_not_keep_outcomes_from_being_sent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [run.replies for run in replies_to(accepted(TILL, 0, 1), MAX_MESSAGE_BYTES)] == [1, 1]
    monkeypatch.setattr(module, "reply_runs", lambda *_: iter([1 // 0]))
    assert replies_to(accepted(TILL, 0), MAX_MESSAGE_BYTES) == []
    assert said(caplog) == ["a bug kept replies from being made"]


class Heard(logging.Handler):
    """Hands over what is logged to whoever awaits it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())


def test_numbers_are_reported_as_long_as_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.01)
    heard = Heard()
    monkeypatch.setattr(module.log, "handlers", [heard])

    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, accepted("elsewhere", 0, 1))
        assert (await heard.lines.get()).startswith("replies are ignored")
        assert (await heard.lines.get()).endswith(": 2 ignored, 0 dropped")
        send(replies, accepted("elsewhere", 2))
        assert (await heard.lines.get()).endswith(": 1 ignored, 0 dropped")
        assert replies._reporter is None

    tell(story)


def test_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def story(broker: StandIn, replies: Replies) -> None:
        send(replies, [*accepted(TILL, 0), *accepted("elsewhere", 1)])
        await settled()
        broker.last.receipts[0].set_result(TAKEN)
        broker.let_in.clear()
        send(replies, accepted(OFFICE, 2, 3))
        await settled()

    with caplog.at_level(logging.INFO, logger=module.__name__):
        assert counts(tell(story)) == (1, 1, 2)
    assert caplog.records[-1].getMessage() == "replies: 1 sent, 1 ignored, 2 dropped"
