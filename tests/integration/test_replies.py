"""Replies on the real broker: who asks for them gets them, and nothing that can happen to them is felt by the job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pulsar
import pytest

from sequencer import replies as module
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics, short_name
from sequencer.partition import Partition, live
from sequencer.pulsar import connection
from sequencer.pulsar.client import LATEST, Consumer, PulsarClient
from sequencer.replies import REPLY_CLIENT, Replies
from tests.conftest import make_namespace
from tests.faults.proxy import FaultProxy, Way
from tests.model import home
from tests.outcomes import Logs
from tests.publishing import Draft, binary, listed, publish, structured
from tests.sequencer_process import SequencerProcess, init

PARTITIONS = 2
READ_LIMIT_MS = 20_000
JUDGED_WITHIN_S = 60.0
HAPPENS_WITHIN_S = 20.0
AGAIN_AFTER_MS = 500
POLL_S = 0.02
TAKE_MESSAGES = 10_000
TAKE_BYTES = 4 * 1024 * 1024
DEAD_TOPICS = 300
FLOOD_EVENTS = 2_000  # with keys of 1,000 characters: their replies take 2.4 MB
MOST_FLOODS = 10  # more than sockets hold, whatever the system gives them
SLOW_EVENTS = 4_000


@pytest.fixture(scope="module")
def topics(broker: EmbeddedBroker) -> Topics:
    """Those of one namespace for all that is tried here."""
    namespace = make_namespace(broker)
    init(broker, namespace, PARTITIONS)
    return Topics(namespace)


class Till:
    """A publisher that waits for outcomes on a reply topic, with the official client."""

    def __init__(self, client: Any, topic: str) -> None:
        self.topic = topic
        self._reader = client.create_reader(topic, pulsar.MessageId.latest)

    def read(self, count: int, wait_ms: int = READ_LIMIT_MS) -> list[dict[str, Any]]:
        """The next replies; "key" is their message's."""
        messages = [self._reader.read_next(wait_ms) for _ in range(count)]
        return [json.loads(message.data()) | {"key": message.partition_key()} for message in messages]

    def close(self) -> None:
        self._reader.close()


def asking(draft: Draft, topic: str) -> Draft:
    """The same, and its publisher wants to know."""
    return draft._replace(properties={**draft.properties, "reply_to": topic})


def new_topic(topics: Topics) -> str:
    return topics.reply_topic(f"till-{uuid4()}")


def key_in(partition: int) -> str:
    """An aggregate that nobody has used, at home in this partition."""
    return next(key for key in (f"account-{uuid4()}" for _ in range(1000)) if home(key, PARTITIONS) == partition)


def expected_replies(logs: Logs, topic: str) -> list[dict[str, Any]]:
    """The replies that the outcomes in the log call for, from what `events` and `rejected_events` say."""
    submissions: dict[str, list[Any]] = {}
    for n in logs.partitions:
        for event in logs.events(n):
            if event.properties.get("reply_to") == topic:
                submissions.setdefault(event.properties["submission"], []).append(event)
    replies = []
    for submission, events in submissions.items():
        versions = [int(event.properties["version"]) for event in events]
        sequence = int(events[0].properties["sequence"])
        replies.append(
            {"submission": submission, "outcome": "accepted", "versions": [versions[0], versions[-1]]}
            | {"sequence": sequence, "key": events[0].key}
        )
    for n in logs.partitions:
        for message in logs.rejected(n):
            if message.properties.get("reply_to") == topic:
                outcome = "duplicate" if message.properties["reason"] == "duplicate" else "rejected"
                replies.append({"submission": message.properties["submission"], "outcome": outcome})
    return replies


def test_every_outcome_is_told_to_who_asks(broker: EmbeddedBroker, topics: Topics, client: Any, tmp_path: Path) -> None:
    topic = new_topic(topics)
    here, there = key_in(0), key_in(1)
    one, several, ids = uuid4(), uuid4(), [uuid4() for _ in range(3)]
    routed = [
        structured(here, one, -1),
        listed(here, several, ids, 0),
        structured(here, one, -1),  # a retry
        listed(here, several, ids, 0),
        structured(here, uuid4(), 7),
        binary(here, uuid4(), 3, b"\x00\xff"),
        Draft(here, b"{no json"),
        Draft(None, structured("", one).payload),
    ]
    foreign = [
        topics.submitted,
        topics.events,
        "non-persistent://public/default/till",
        f"{topic}-partition-0",
        "ü",
    ]
    with SequencerProcess(broker, topics.namespace, tmp_path) as process:
        till = Till(client, topic)
        publish(client, topics.submitted, [asking(draft, topic) for draft in routed])
        replies = till.read(len(routed))
        publish(client, topics.submitted, [asking(structured(here, uuid4()), elsewhere) for elsewhere in foreign])
        publish(client, topics.submitted, [structured(here, uuid4())])
        # Sent to the wrong partition: its home replies.
        astray = asking(structured(there, uuid4(), -1), topic)
        publish(client, topics.submitted, [astray], router=lambda message, n: 0)
        replies += till.read(1)
        process.stop()
    told = {reply["submission"]: reply for reply in replies}
    assert [reply["id"] for reply in replies[:4]] == [str(one), str(several), str(one), str(several)]
    assert [(reply["outcome"], reply.get("versions")) for reply in replies] == [
        ("accepted", [0, 0]),
        ("accepted", [1, 3]),
        ("duplicate", [0, 0]),
        ("duplicate", [1, 3]),
        ("rejected", None),
        ("accepted", [4, 4]),
        ("rejected", None),
        ("rejected", None),
        ("accepted", [0, 0]),
    ]
    assert [reply.get("sequence") for reply in replies[2:4]] == [reply["sequence"] for reply in replies[:2]]
    assert replies[4]["reason"] == "wrong_expected_version"
    assert (replies[4]["expected_version"], replies[4]["current_version"]) == (7, 3)
    assert replies[4]["detail"] == "expected 7, current version is 3"
    assert [reply.get("reason") for reply in replies[6:8]] == ["malformed", "missing_key"]
    assert [reply["key"] for reply in replies] == [here] * 7 + ["", there]

    logs = Logs(client, broker, topics.namespace, PARTITIONS)
    logs.read_submitted()
    logs.await_all(JUDGED_WITHIN_S, lambda: None)
    expected = expected_replies(logs, topic)
    assert len(expected) == len(told) == len(replies)
    for reply in expected:
        assert reply.items() <= told[reply["submission"]].items()
    assert f"replies: {len(replies)} sent, {len(foreign)} ignored, 0 dropped" in process.log()
    assert process.log().count("replies are ignored") == 1


# --- Faults: the replies go through a proxy of their own, the job does not ---


class Job:
    """Every partition sequenced in this process, and what is accepted counted."""

    def __init__(self, client: Any, topics: Topics, replies: Replies) -> None:
        self.replies = replies
        self.lives: list[asyncio.Task[None]] = []
        self.events: list[Consumer] = []
        self._client, self._topics = client, topics

    async def publish(self, count: int, *reply_topics: str, key_characters: int = 1) -> None:
        """Return when `count` events, whose replies go to these topics in turns, have been accepted."""
        drafts = (
            asking(structured(f"{n % 1000:0{key_characters}}", uuid4()), reply_topics[n % len(reply_topics)])
            for n in range(count)
        )
        await asyncio.to_thread(publish, self._client, self._topics.submitted, drafts)
        left = count
        async with asyncio.timeout(JUDGED_WITHIN_S):
            while left:
                left -= sum([await self._accepted(reader) for reader in self.events])
                self.check()

    async def answered(self, till: Till) -> None:
        """Replies arrive, if not the first then one soon after: whoever reads them may have been cut off as well."""
        async with asyncio.timeout(HAPPENS_WITHIN_S):
            while True:
                await self.publish(1, till.topic)
                with contextlib.suppress(pulsar.Timeout):
                    await asyncio.to_thread(till.read, 1, AGAIN_AFTER_MS)
                    return

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when something has become true that nobody tells."""
        async with asyncio.timeout(HAPPENS_WITHIN_S):
            while not true():
                self.check()
                await asyncio.sleep(POLL_S)

    def check(self) -> None:
        """No life has ended."""
        for life in self.lives:
            assert not life.done(), life

    async def _accepted(self, reader: Consumer) -> int:
        """Accepted events that have arrived."""
        try:
            async with asyncio.timeout(POLL_S):
                entries = await reader.take(max_messages=TAKE_MESSAGES, max_bytes=TAKE_BYTES)
        except TimeoutError:
            return 0
        return sum(entry.metadata.num_messages_in_batch for entry in entries)


@contextlib.asynccontextmanager
async def running(
    broker: EmbeddedBroker, topics: Topics, client: Any, index_dir: Path, reply_url: str | None = None
) -> AsyncIterator[Job]:
    stop = asyncio.Event()
    connect = partial(PulsarClient, reply_url or broker.service_url, settings=REPLY_CLIENT)
    async with contextlib.AsyncExitStack() as stack:
        job = Job(client, topics, await stack.enter_async_context(Replies(connect, topics)))
        for n in range(PARTITIONS):
            own = await stack.enter_async_context(PulsarClient(broker.service_url))
            job.events.append(await own.reader(topics.events_partition(n), start=LATEST))
            partition = Partition(n, PARTITIONS, topics)
            life = live(own, partition, index_dir / str(n), job.replies, stop)
            job.lives.append(asyncio.create_task(life))
        yield job
        job.check()
        stop.set()
        await asyncio.gather(*job.lives)


@pytest.fixture
def proxy(broker: EmbeddedBroker) -> Iterator[FaultProxy]:
    with FaultProxy(broker.port, 1) as proxy:
        yield proxy


def test_what_happens_to_replies_does_not_happen_to_the_job(
    broker: EmbeddedBroker,
    topics: Topics,
    client: Any,
    tmp_path: Path,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REFUSED_REST_S", 0.1)
    till = Till(client, new_topic(topics))
    path = f"non-persistent/{topics.replies_namespace}/{short_name(till.topic)}"

    async def story() -> None:
        async with running(broker, topics, client, tmp_path, proxy.url(0)) as job:
            await job.answered(till)
            proxy.cut(0)
            await job.answered(till)
            with Admin(broker.admin_url) as admin:
                await asyncio.to_thread(admin.put, f"v2/{path}/unload")
            await job.answered(till)
            proxy.refuse(0, True)
            dropped = job.replies.dropped
            await job.publish(500, till.topic)
            await job.until(lambda: job.replies.dropped == dropped + 500)
            proxy.refuse(0, False)
            await job.answered(till)
            assert proxy.effects["connections cut"] >= 2

    asyncio.run(story())
    till.close()


def test_a_broker_that_does_not_read_replies_is_not_waited_for(
    broker: EmbeddedBroker,
    topics: Topics,
    client: Any,
    tmp_path: Path,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "WRITE_HIGH_WATER_BYTES", 256 * 1024)
    topic = new_topic(topics)

    async def story() -> None:
        async with running(broker, topics, client, tmp_path, proxy.url(0)) as job:
            await job.publish(10, topic)
            await job.until(lambda: job.replies.sent == 10)
            proxy.hold(0, Way.TO_BROKER)
            published = 10
            while not job.replies.dropped:
                assert published < MOST_FLOODS * FLOOD_EVENTS, "everything was sent, to a broker that reads nothing"
                await job.publish(FLOOD_EVENTS, topic, key_characters=1000)
                published += FLOOD_EVENTS
            assert job.replies.sent == 10
            proxy.release(0, Way.TO_BROKER)
            async with asyncio.timeout(HAPPENS_WITHIN_S):
                while job.replies.sent == 10:
                    await job.publish(1, topic)
                    published += 1
            await job.until(lambda: job.replies.sent + job.replies.dropped == published)

    asyncio.run(story())


def test_readers_that_are_slow_or_gone_cost_nothing(
    broker: EmbeddedBroker, topics: Topics, client: Any, tmp_path: Path
) -> None:
    slow = client.subscribe(new_topic(topics), "slow", receiver_queue_size=1)
    dead = [new_topic(topics) for _ in range(DEAD_TOPICS)]
    till = Till(client, new_topic(topics))

    async def story() -> None:
        async with running(broker, topics, client, tmp_path) as job:
            await job.publish(SLOW_EVENTS, slow.topic())
            await job.until(lambda: job.replies.sent == SLOW_EVENTS)
            await job.publish(10 * DEAD_TOPICS, *dead)
            await job.until(lambda: job.replies.sent + job.replies.dropped == SLOW_EVENTS + 10 * DEAD_TOPICS)
            await job.publish(100, till.topic)
            assert len(await asyncio.to_thread(till.read, 100)) == 100

    asyncio.run(story())
    slow.close()
    till.close()


def test_without_their_namespace_replies_are_dropped_until_init_has_made_it(
    broker: EmbeddedBroker,
    namespace: str,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with topics that an earlier version's init has made."""
    monkeypatch.setattr(module, "REFUSED_REST_S", 0.1)
    topics = Topics(namespace)
    init(broker, namespace, PARTITIONS)
    with Admin(broker.admin_url) as admin:
        admin.delete(f"v2/namespaces/{topics.replies_namespace}")
    topic = new_topic(topics)

    async def story() -> None:
        async with running(broker, topics, client, tmp_path) as job:
            await job.publish(100, topic)
            await job.publish(100, topic)
            await job.until(lambda: job.replies.dropped == 200)
            await asyncio.to_thread(init, broker, namespace, PARTITIONS)
            while job.replies.sent == 0:
                await job.publish(1, topic)

    with caplog.at_level(logging.WARNING, logger=module.__name__):
        asyncio.run(story())
    [warning] = [record.getMessage() for record in caplog.records if "are dropped" in record.getMessage()]
    assert f"`sequencer init` makes the namespace {topics.replies_namespace}" in warning
