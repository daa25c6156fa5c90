"""The client library on the real broker and a real sequencer: every append has one answer, and the log agrees."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.client import (
    ANY,
    END,
    NO_AGGREGATE,
    Appended,
    Checkpoint,
    Codec,
    EventStore,
    NewEvent,
    OutcomeUnknown,
    Recorded,
    Rejected,
    SequenceGap,
    Undecodable,
    WrongExpectedVersion,
    json_codec,
)
from sequencer.client.sync import SyncEventStore
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.topics import TopicMissing
from tests.conftest import make_namespace
from tests.faults.proxy import FaultProxy, Way
from tests.model import home
from tests.publishing import binary, publish
from tests.sequencer_process import SequencerProcess, init, sequencer

PARTITIONS = 2
ANSWERED_WITHIN_S = 60.0

Store = EventStore[Any]


class Running:
    """A sequencer at work in a namespace of its own."""

    def __init__(self, broker: EmbeddedBroker, namespace: str) -> None:
        self.broker = broker
        self.namespace = namespace

    def store(self, **options: Any) -> Store:
        return EventStore(**{"service_url": self.broker.service_url, "namespace": self.namespace} | options)

    def append(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """Exit code and output of `sequencer append`."""
        done = sequencer(self.broker, self.namespace, "append", *arguments, stdin=stdin)
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def running(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that do it no harm; each has aggregates of its own."""
    namespace = make_namespace(broker)
    init(broker, namespace, PARTITIONS)
    with SequencerProcess(broker, namespace, tmp_path_factory.mktemp("index")) as process:
        process.await_sequencing(PARTITIONS)
        yield Running(broker, namespace)


def key() -> str:
    """An aggregate that no other test knows."""
    return f"account-{uuid4()}"


def run(work: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            await work

    asyncio.run(in_time())


async def events_of(store: EventStore[Any], aggregate: str, count: int) -> list[Recorded[Any]]:
    """The first events of an aggregate."""
    found: list[Recorded[Any]] = []
    async with store.subscribe() as events:
        async for event in events:
            if event.key == aggregate:
                found.append(event)
                if len(found) == count:
                    return found
    raise AssertionError


# --- append ---


def test_versions_sequences_and_conflicts(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store:
            account = key()
            first = await store.append(account, {"opened": True}, NO_AGGREGATE)
            assert (first.first_version, first.last_version, first.duplicate) == (0, 0, False)
            second = await store.append(account, {"amount": 5}, 0)
            assert (second.first_version, second.sequence) == (1, first.sequence + 1)
            assert (await store.append(account, {"amount": 6})).first_version == 2
            with pytest.raises(WrongExpectedVersion) as late:
                await store.append(account, {"amount": 7}, 1)
            assert (late.value.key, late.value.expected, late.value.current) == (account, 1, 2)
            with pytest.raises(WrongExpectedVersion) as early:
                await store.append(key(), {"amount": 7}, 3)
            assert early.value.current == NO_AGGREGATE
            assert [event.data for event in await events_of(store, account, 3)] == [
                {"opened": True},
                {"amount": 5},
                {"amount": 6},
            ]

    run(work())


def test_several_events_are_one_decision(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store:
            account = key()
            events = [
                NewEvent({"n": 0}, id=uuid4(), type="opened", source="test", subject="s", time="2026-01-01T00:00:00Z"),
                NewEvent({"n": 1}, id=uuid4(), correlationid="c", causationid="é", traceparent="00-1-2-3"),
                NewEvent({"n": 2}, id=uuid4()),
            ]
            done = await store.append(account, events, NO_AGGREGATE)
            assert (done.first_version, done.last_version, done.duplicate) == (0, 2, False)
            assert await store.append(account, events, NO_AGGREGATE) == done._replace(duplicate=True)
            assert await store.append(account, events) == done._replace(duplicate=True)
            with pytest.raises(Rejected) as mixed:
                await store.append(account, [events[0], NewEvent({"n": 9})])
            assert mixed.value.reason == "conflicting_ids"
            with pytest.raises(WrongExpectedVersion):
                await store.append(account, [{"n": 8}, {"n": 9}], 1)
            found = await events_of(store, account, 3)
            assert [(e.version, e.sequence - done.sequence, e.id, e.data) for e in found] == [
                (n, n, str(event.id), {"n": n}) for n, event in enumerate(events)
            ]
            assert [e.attributes for e in found] == [event.attributes() for event in events]

    run(work())


def test_the_same_event_again_is_a_duplicate(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store:
            account, event = key(), NewEvent({"n": 0}, id=uuid4(), type="opened")
            first = await store.append(account, event, NO_AGGREGATE)
            again = await asyncio.gather(*(store.append(account, event, version) for version in (NO_AGGREGATE, ANY)))
            assert again == [first._replace(duplicate=True)] * 2
            # At the same time, through the same store: one of them is in, the others hear of it.
            twin, other = NewEvent("x", id=uuid4()), key()
            answers = await asyncio.gather(*(store.append(other, twin) for _ in range(5)))
            assert [answer.first_version for answer in answers] == [0] * 5
            assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]

    run(work())


def test_concurrent_appends_keep_their_order_and_conflict_rightly(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store, running.store() as other:
            ordered = key()
            in_order = await asyncio.gather(*(store.append(ordered, n) for n in range(1000)))
            assert [answer.first_version for answer in in_order] == list(range(1000))
            contended = key()
            await store.append(contended, "opened", NO_AGGREGATE)
            wins: list[Appended] = []

            async def contend(through: Store, rounds: int) -> None:
                seen = 0
                for _ in range(rounds):
                    try:
                        done = await through.append(contended, "withdrawal", seen)
                        wins.append(done)
                        seen = done.last_version
                    except WrongExpectedVersion as conflict:
                        seen = conflict.current

            await asyncio.gather(*(contend(through, 10) for through in (store, other) for _ in range(10)))
            assert sorted(done.first_version for done in wins) == list(range(1, len(wins) + 1))
            found = await events_of(store, contended, len(wins) + 1)
            assert [event.version for event in found] == list(range(len(wins) + 1))

    run(work())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("", 1), "key"),
        (("k" * 1025, 1), "key"),
        (("k\udcff", 1), "surrogates"),
        (("k", []), "0 events"),
        (("k", [1] * 1001), "1001 events"),
        (("k", NewEvent(1, id="no-uuid")), "UUID"),
        (("k", [NewEvent(1, id="0f8fad5b-d9cb-469f-a165-70867728950e")] * 2), "same id"),
        (("k", 1, -2), "expected version"),
        (("k", 1, True), "expected version"),
        (("k", 1, ANY, 0.0), "time-out"),
        (("k", "x" * (5 << 20)), "bytes"),
    ],
)
def test_what_breaks_the_contract_is_not_sent(running: Running, arguments: tuple[Any, ...], why: str) -> None:
    async def work() -> None:
        async with running.store() as store:
            with pytest.raises(ValueError, match=why):
                await store.append(*arguments)

    run(work())


def test_a_codec_that_gives_no_json_is_found_out(running: Running) -> None:
    async def work() -> None:
        for broken in (b'1,"x":2', b"\xff", b"", b"nonsense"):
            codec: Codec[Any] = Codec(lambda _, broken=broken: broken, bytes)  # type: ignore[misc]
            async with running.store(codec=codec) as store:
                with pytest.raises(ValueError, match="not JSON"):
                    await store.append("k", 1)

    run(work())


def test_without_topics_or_broker_it_does_not_connect(broker: EmbeddedBroker) -> None:
    async def work() -> None:
        with pytest.raises(TopicMissing, match="sequencer init"):
            await EventStore(service_url=broker.service_url, namespace="public/nothing").connect()
        with pytest.raises(ValueError, match="URL"):
            await EventStore(service_url="http://nowhere").connect()

    run(work())


# --- whatever breaks ---


class Steady:
    """Writers that append to their aggregates until told to stop, and remember every answer."""

    def __init__(self, store: Store, writers: int) -> None:
        self.answers: dict[str, Appended] = {}  # by the event's id
        self.conflicts: set[str] = set()
        self.stopped = False
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write(store, f"steady-{n}-{uuid4()}")) for n in range(writers)]

    async def more(self, count: int) -> None:
        """Return after so many further answers."""
        wanted = len(self.answers) + count
        while len(self.answers) < wanted:
            for task in self._tasks:
                if task.done():
                    task.result()
            self._changed.clear()
            await self._changed.wait()

    async def finish(self) -> None:
        self.stopped = True
        await asyncio.gather(*self._tasks)

    async def _write(self, store: Store, account: str) -> None:
        version = NO_AGGREGATE
        try:
            while not self.stopped:
                event = NewEvent({"n": version}, id=uuid4())
                done = await store.append(account, event, version)
                assert done.first_version == version + 1
                version += 1
                self.answers[str(event.id)] = done
                stale = NewEvent({"n": version}, id=uuid4())
                with pytest.raises(WrongExpectedVersion):
                    await store.append(account, stale, version + 1)
                self.conflicts.add(str(stale.id))
                self._changed.set()
        finally:
            self._changed.set()

    async def check(self, store: Store) -> None:
        """The log holds what was answered, once, as answered, and nothing else of these writers."""
        for partition in range(store.partitions):
            names = (f"end-{number}" for number in itertools.count())
            await store.append(next(name for name in names if home(name, store.partitions) == partition), "end")
        log: dict[str, Recorded[Any]] = {}
        for partition in range(store.partitions):
            async with store.subscribe(partitions=[partition]) as events:
                async for event in events:
                    if event.key.startswith("end-"):
                        break
                    assert event.id not in log, "appended twice"
                    log[event.id] = event
        assert self.conflicts.isdisjoint(log)
        assert {event_id: (e.version, e.sequence) for event_id, e in log.items()} == {
            event_id: (done.first_version, done.sequence) for event_id, done in self.answers.items()
        }


@contextlib.asynccontextmanager
async def steady(
    broker: EmbeddedBroker, namespace: str, writers: int, service_url: str = ""
) -> AsyncIterator[tuple[Steady, Store]]:
    """Writers at work, that at the end have been answered in agreement with the log."""
    url = service_url or broker.service_url
    async with EventStore(service_url=url, namespace=namespace) as store:
        work = Steady(store, writers)
        yield work, store
        await work.finish()
        await work.check(store)


def test_the_connection_is_lost_again_and_again(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    init(broker, namespace, PARTITIONS)
    port = int(broker.service_url.rpartition(":")[2])

    async def work(proxy: FaultProxy) -> None:
        async with steady(broker, namespace, 20, proxy.url(0)) as (writers, _):
            await writers.more(50)
            for kind, way in (
                ("SEND", Way.TO_BROKER),
                ("SEND_RECEIPT", Way.TO_CLIENT),
                ("MESSAGE", Way.TO_CLIENT),
            ):
                await asyncio.to_thread(proxy.cut, 0)
                await writers.more(50)
                await asyncio.to_thread(proxy.lose, 0, way, kind, 1, cut=True)
                await writers.more(50)
            # A reply is lost, and nothing else: it is sent again.
            await asyncio.to_thread(proxy.lose, 0, Way.TO_CLIENT, "MESSAGE", 1, cut=False)
            await writers.more(50)
            # The broker holds the dead connection for alive, and the producer's name for taken.
            await asyncio.to_thread(proxy.half_open, 0, Way.TO_CLIENT)
            await writers.more(50)

    with SequencerProcess(broker, namespace, tmp_path) as process, FaultProxy(port, 1) as proxy:
        process.await_sequencing(PARTITIONS)
        run(work(proxy))
        assert proxy.effects["connections cut"] >= 3
        assert proxy.effects["MESSAGE lost"] >= 1
        assert proxy.effects["connections half open"] >= 1


def test_the_sequencer_is_killed_again_and_again(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    init(broker, namespace, PARTITIONS)

    def start() -> SequencerProcess:
        return SequencerProcess(broker, namespace, tmp_path)

    async def work(processes: contextlib.ExitStack) -> None:
        owner = processes.enter_context(start())
        await asyncio.to_thread(owner.await_sequencing, PARTITIONS)
        async with steady(broker, namespace, 20) as (writers, _):
            for _ in range(2):
                await writers.more(100)
                standby = processes.enter_context(start())
                await asyncio.to_thread(standby.await_standby, PARTITIONS)
                owner.kill()
                await writers.more(100)
                owner = standby

    with contextlib.ExitStack() as processes:
        run(work(processes))


def test_an_unknown_outcome_is_settled_by_the_same_ids(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    init(broker, namespace, PARTITIONS)

    async def work(processes: contextlib.ExitStack) -> None:
        async with EventStore(service_url=broker.service_url, namespace=namespace) as store:
            single, several = NewEvent("x", id=uuid4()), [NewEvent(n, id=uuid4()) for n in range(3)]
            unknown = await asyncio.gather(
                store.append("a", single, NO_AGGREGATE, 1.5),
                store.append("b", several, NO_AGGREGATE, 1.5),
                return_exceptions=True,
            )
            assert isinstance(unknown[0], OutcomeUnknown)
            assert isinstance(unknown[1], OutcomeUnknown)
            assert unknown[0].ids == (str(single.id),)
            assert unknown[1].ids == tuple(str(event.id) for event in several)
            assert unknown[0].attempts == 2
            process = processes.enter_context(SequencerProcess(broker, namespace, tmp_path))
            await asyncio.to_thread(process.await_sequencing, PARTITIONS)
            # What was sent without an answer stands in the log before this.
            assert await store.append("a", single, NO_AGGREGATE) == Appended(0, 0, 0, True)
            done = await store.append("b", several, NO_AGGREGATE)
            assert (done.first_version, done.last_version, done.duplicate) == (0, 2, True)

    with contextlib.ExitStack() as processes:
        run(work(processes))


def test_a_closed_store_answers_what_waits(broker: EmbeddedBroker, namespace: str) -> None:
    init(broker, namespace, PARTITIONS)

    async def work() -> None:
        store = await EventStore(service_url=broker.service_url, namespace=namespace).connect()
        waiting = asyncio.create_task(store.append("a", 1))
        given_up = asyncio.create_task(store.append("a", 2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(OutcomeUnknown, match="closed"):
            await waiting
        with pytest.raises(OutcomeUnknown, match="closed"):
            await store.append("a", 3)

    run(work())


async def first_submission(broker: EmbeddedBroker, topic: str) -> None:
    async with PulsarClient(broker.service_url) as client, asyncio.timeout(ANSWERED_WITHIN_S):
        reader = await client.reader(topic)
        await reader.take(max_messages=1, max_bytes=1)


def test_a_closed_store_of_the_twin_answers_what_another_thread_waits_for(
    broker: EmbeddedBroker, namespace: str
) -> None:
    """With the ids, by which it can be settled; not with a cancellation, which has none."""
    init(broker, namespace, PARTITIONS)
    with SyncEventStore(service_url=broker.service_url, namespace=namespace) as store, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.append, "a", 1)
        asyncio.run(first_submission(broker, Topics(namespace).submitted_partition(home("a", PARTITIONS))))
        store.close()
        with pytest.raises(OutcomeUnknown, match="closed") as unknown:
            waiting.result()
    assert len(unknown.value.ids) == 1


# --- subscribe ---


def test_a_checkpoint_resumes_where_it_was_taken(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store:
            accounts = [key() for _ in range(6)]
            async with store.subscribe(END) as events:
                for n in range(5):
                    await asyncio.gather(*(store.append(account, [n, n]) for account in accounts))
                expected = len(accounts) * 10
                seen = [await anext(events) for _ in range(expected)]
            assert {event.key for event in seen} == set(accounts)
            assert {event.partition for event in seen} == set(range(PARTITIONS))
            for cut in (1, 7, 30, expected - 1):
                stored = seen[cut - 1].checkpoint.to_json()
                async with store.subscribe(Checkpoint.from_json(stored)) as events:
                    rest = [await anext(events) for _ in range(expected - cut)]
                assert {(e.key, e.version) for e in seen[:cut] + rest} == {(e.key, e.version) for e in seen}

    run(work())


def test_waiting_for_an_event_may_be_given_up(running: Running) -> None:
    async def work() -> None:
        async with running.store() as store, store.subscribe(END) as events:
            account = key()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
            await store.append(account, list(range(100)))
            seen: list[Recorded[Any]] = []
            while len(seen) < 100:
                with contextlib.suppress(TimeoutError):
                    seen.append(await asyncio.wait_for(anext(events), 0.001))
            assert [event.version for event in seen] == list(range(100))

    run(work())


def test_a_lost_connection_is_not_seen_by_a_subscription(running: Running) -> None:
    port = int(running.broker.service_url.rpartition(":")[2])

    async def work(proxy: FaultProxy) -> None:
        account = key()
        async with (
            running.store() as store,
            running.store(service_url=proxy.url(0)) as cut,
            cut.subscribe(END) as events,
        ):
            versions = []
            for n in range(5):
                await store.append(account, list(range(10)))
                await asyncio.to_thread(proxy.cut, 0)
                await store.append(account, list(range(10)))
                versions += [(await anext(events)).version for _ in range(20 if n < 4 else 19)]
            assert versions == list(range(99))

    with FaultProxy(port, 1) as proxy:
        run(work(proxy))
        assert proxy.effects["connections cut"] >= 5


class Member:
    """A member of a group that commits after every so many events, and remembers what it was given."""

    def __init__(self, store: Store, group: str, commit_every: int) -> None:
        self.subscription = store.subscribe(group=group)
        self.given: list[tuple[str, int]] = []
        self.partitions: list[int] = []
        self.committed: set[tuple[str, int]] = set()
        self._commit_every = commit_every
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._work())

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._task.done():
                self._task.result()
            self._changed.clear()
            await self._changed.wait()

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.subscription.close()

    async def _work(self) -> None:
        dealt_with: dict[int, set[tuple[str, int]]] = {}
        try:
            async for event in self.subscription:
                self.given.append((event.key, event.version))
                self.partitions.append(event.partition)
                dealt_with.setdefault(event.partition, set()).add((event.key, event.version))
                if len(self.given) % self._commit_every == 0:
                    await self.subscription.commit(event)
                    self.committed |= dealt_with.pop(event.partition)
                self._changed.set()
        finally:
            self._changed.set()


def test_a_group_shares_the_partitions_and_loses_nothing(running: Running) -> None:
    accounts, others = [key() for _ in range(20)], [key() for _ in range(20)]
    expected = {(account, version) for account in accounts for version in range(10)}

    async def append_all(store: Store) -> None:
        await asyncio.gather(*(store.append(account, list(range(5))) for account in accounts))

    async def has_a_turn(member: Member, store: Store) -> None:
        """Return when the member is given events; what comes before its turn may all be dealt with by the other."""
        given = len(member.given)
        while len(member.given) == given:
            await asyncio.gather(*(store.append(account, "more") for account in others))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(member.until(lambda: len(member.given) > given), 0.3)

    async def work(proxy: FaultProxy) -> None:
        group = f"group-{uuid4()}"
        async with running.store() as store, running.store(service_url=proxy.url(0)) as shaky:
            first = Member(store, group, 7)
            await append_all(store)
            half = {(account, version) for account, version in expected if version < 5}
            await first.until(lambda: half <= set(first.given))
            assert set(first.partitions) == set(range(PARTITIONS))
            second = Member(shaky, group, 3)
            await has_a_turn(second, store)
            await asyncio.to_thread(proxy.cut, 0)
            await has_a_turn(second, store)
            first.partitions.clear()
            second.partitions.clear()
            await append_all(store)
            await second.until(lambda: len(second.partitions) > 20)
            # Each has one of the two partitions, and what the first had committed does not come again.
            assert len(set(second.partitions)) == 1
            assert set(first.partitions).isdisjoint(second.partitions)
            assert first.committed.isdisjoint(second.given)
            await second.leave()
            await first.until(lambda: expected <= set(first.given + second.given))
            await first.leave()
            with pytest.raises(ValueError, match="broker"):
                store.subscribe(Checkpoint({}), group=group)  # type: ignore[call-overload]
            with pytest.raises(ValueError, match="name"):
                store.subscribe(group="a/b")

    with FaultProxy(int(running.broker.service_url.rpartition(":")[2]), 1) as proxy:
        run(work(proxy))


def test_a_group_goes_on_in_the_middle_of_an_entry(running: Running) -> None:
    async def work() -> None:
        group, account = f"group-{uuid4()}", key()
        async with running.store() as store:
            async with store.subscribe(END, group=group) as events:
                await store.append(account, list(range(100)))
                for _ in range(70):
                    last = await anext(events)
                await events.commit(last)
                await events.close()
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
                with pytest.raises(PulsarError):
                    await events.commit(last)
            async with store.subscribe(group=group) as events:
                rest = [await anext(events) for _ in range(30)]
                assert [event.version for event in rest] == list(range(70, 100))
                await events.commit(rest[-1])
            async with store.subscribe(group=group) as events:
                await store.append(account, "after")
                assert (await anext(events)).version == 100

    run(work())


class Opened(TypedDict):
    owner: str


def test_typed_data_binary_mode_and_what_cannot_be_decoded(running: Running, client: Any) -> None:
    async def work() -> None:
        async with running.store() as anything, running.store(codec=json_codec(Opened)) as store:
            account = key()
            async with store.subscribe(END) as events:
                await store.append(account, {"owner": "Ada"})
                await anything.append(account, {"owner": 7})
                event_id = uuid4()
                topic = f"persistent://{running.namespace}/submitted_events"
                await asyncio.to_thread(publish, client, topic, [binary(account, event_id, 1, b"\x00\xff")])
                first = await anext(events)
                assert first.data == {"owner": "Ada"}
                with pytest.raises(Undecodable, match="owner"):
                    await anext(events)
                assert events.checkpoint == first.checkpoint, "a codec that is mended gets it"
                third = await anext(events)
                assert events.checkpoint == third.checkpoint != first.checkpoint
                assert (third.data, third.id, third.version) == (b"\x00\xff", str(event_id), 2)

    run(work())


def test_a_gap_ends_a_subscription(broker: EmbeddedBroker, namespace: str, client: Any) -> None:
    init(broker, namespace, 1)
    topic = f"persistent://{namespace}/events-partition-0"
    producer = client.create_producer(topic)
    for version, sequence in ((0, 0), (1, 1), (2, 3)):
        properties = {"id": str(uuid4()), "version": str(version), "sequence": str(sequence), "submission": "1:1:0:0"}
        producer.send(b"x", properties=properties, partition_key="a")
    producer.close()

    async def work() -> None:
        async with EventStore(service_url=broker.service_url, namespace=namespace) as store:
            events = store.subscribe()
            assert [(await anext(events)).sequence for _ in range(2)] == [0, 1]
            with pytest.raises(SequenceGap) as gap:
                await anext(events)
            assert (gap.value.partition, gap.value.expected, gap.value.found) == (0, 2, 3)
            with pytest.raises(StopAsyncIteration):
                await anext(events)
            with pytest.raises(ValueError, match="partitions"):
                store.subscribe(partitions=[1])

    run(work())


# --- without asyncio, and from the command line ---


def test_the_synchronous_twin(running: Running) -> None:
    with SyncEventStore(service_url=running.broker.service_url, namespace=running.namespace) as store:
        account = key()
        with store.subscribe(END) as events:
            assert store.append(account, {"n": 0}, NO_AGGREGATE).first_version == 0
            threads = [threading.Thread(target=store.append, args=(account, {"n": n})) for n in range(1, 9)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with pytest.raises(WrongExpectedVersion):
                store.append(account, {"n": 9}, 3)
            seen = [next(events) for _ in range(9)]
            assert [event.version for event in seen] == list(range(9))
            assert events.checkpoint == seen[-1].checkpoint
        assert list(events) == []
        assert store.partitions == PARTITIONS


def test_append_from_the_command_line(running: Running, tmp_path: Path) -> None:
    account, event_id = key(), str(uuid4())
    code, output, _ = running.append(account, "--expect", "none", "--data", '{"n": 1e2}', "--id", event_id)
    assert (code, output.partition(" (")[0]) == (0, f"{account}: version 0")
    code, output, _ = running.append(account, "--expect", "none", "--data", '{"n": 1e2}', "--id", event_id)
    assert (code, output.partition(" (")[0]) == (0, f"{account}: was in already: version 0")
    (tmp_path / "data.json").write_text('{"n": 2}\n')
    arguments = ("--expect", "0", "--data", f"@{tmp_path / 'data.json'}", "--data", "@-", "--type", "t", "--json")
    code, output, _ = running.append(account, *arguments, stdin=b"3")
    assert code == 0
    shown = json.loads(output)
    assert (shown["outcome"], shown["first_version"], shown["last_version"]) == ("accepted", 1, 2)
    code, output, errors = running.append(account, "--expect", "0", "--data", "1")
    assert (code, output) == (3, "")
    assert f"rejected: {account}: version 0 was expected, the aggregate is at 2" in errors
    code, output, _ = running.append(account, "--expect", "0", "--data", "1", "--json")
    assert code == 3
    shown = json.loads(output)
    assert (shown["outcome"], shown["expected_version"], shown["current_version"]) == ("rejected", 0, 2)

    async def check() -> None:
        async with running.store() as store:
            found = await events_of(store, account, 3)
            assert [(event.data, event.attributes) for event in found] == [
                ({"n": 100.0}, {}),
                ({"n": 2}, {"type": "t"}),
                (3, {"type": "t"}),
            ]

    run(check())


def test_append_from_the_command_line_without_a_sequencer(broker: EmbeddedBroker, namespace: str) -> None:
    init(broker, namespace, 1)
    event_id = str(uuid4())
    arguments = ("append", "a", "--expect", "any", "--data", "1", "--id", event_id, "--timeout", "0.7")
    done = sequencer(broker, namespace, *arguments)
    assert done.returncode == 5, done.stderr
    assert f"--id {event_id}" in done.stderr.decode()
    done = sequencer(broker, namespace, *arguments, "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout) == {"key": "a", "outcome": "unknown", "ids": [event_id], "attempts": 1}
