"""`sequencer status` on a real broker: before there is an owner, with one, with a standby, with a killed one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from sequencer.admin import AdminReader
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics, index_directory
from sequencer.owner import OwnerLog
from sequencer.partition import Partition, take_over
from sequencer.pulsar.client import AccessMode, PulsarClient
from sequencer.status import HELD_LIMIT_S, Hold, diagnose
from sequencer.status_look import look
from state.index import VersionIndex
from tests.publishing import publish, structured
from tests.sequencer_process import SequencerProcess, init, sequencer

pytestmark = pytest.mark.integration

WITHIN_S = 20.0
ADMIN_LIMIT_S = 10.0
TTL_MS = 60_000


def status(broker: EmbeddedBroker, namespace: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the JSON lines of one look: the topics, then the partitions."""
    done = sequencer(broker, namespace, "status", "--json", *options)
    assert done.stderr == b"", done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def told(partition: dict[str, Any]) -> list[str]:
    return [problem["what"] for problem in partition["problems"]]


def test_the_life_of_a_partition(broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path) -> None:
    topics = Topics(namespace)
    code, (shared,) = status(broker, namespace)
    assert code == 1
    assert told(shared)[0] == "there is no partitioned topic submitted_events"

    init(broker, namespace, 1)
    code, (shared, partition) = status(broker, namespace)
    assert (code, shared["problems"]) == (1, [])
    assert shared["topics"] == dict.fromkeys(("submitted_events", "events", "rejected_events", "sequencer_owners"), 1)
    # init itself was the first owner, once, to prime the outputs.
    assert (partition["owned"], partition["epoch"], partition["last_sequence"]) == (False, 0, -1)
    assert [text.split(":")[0] for text in told(partition)] == ["no owner"]

    with SequencerProcess(broker, namespace, tmp_path) as owner:
        owner.await_sequencing(1)
        code, (_, partition) = status(broker, namespace, "--index-dir", str(tmp_path))
        assert (code, partition["owned"], partition["epoch"]) == (0, True, 1)
        # It is on record from the start: it has primed the empty outputs, and that takes a transaction.
        assert partition["owner"]["pid"] == owner.process.pid
        assert (partition["index_next_sequence"], partition["index_lag"]) == (0, 0)

        event_id = uuid4()
        events = [structured("a", event_id, -1), structured("a", event_id, -1), structured("a", uuid4(), 7)]
        publish(client, topics.submitted, [*events, structured("b", uuid4())])
        judged = until(
            lambda: status(broker, namespace, "--index-dir", str(tmp_path)), lambda s: s["last_sequence"] == 1
        )
        assert judged["rejections"] == {"duplicate": 1, "wrong_expected_version": 1}
        assert judged["owner"]["pid"] == owner.process.pid
        assert (judged["backlog_entries"], judged["index_lag"], judged["problems"]) == (0, 0, [])
        assert judged["standbys_at_most"] == 0
        people = sequencer(broker, namespace, "status")
        assert people.returncode == 0
        assert f"pid {owner.process.pid}" in people.stdout.decode()
        assert "nothing is wrong" in people.stdout.decode()

        with SequencerProcess(broker, namespace, tmp_path / "standby") as standby:
            standby.await_standby(1)
            waiting = until(lambda: status(broker, namespace), lambda s: s["standbys_at_most"] >= 1)
            assert waiting["problems"] == []
            owner.kill()
            standby.await_sequencing(1)
            code, (_, partition) = status(broker, namespace)
            # It has judged nothing yet, but the transactions that it will need are on record.
            assert (code, partition["owned"], partition["owner"]["pid"]) == (0, True, standby.process.pid)
            publish(client, topics.submitted, [structured("c", uuid4())])
            ours = until(lambda: status(broker, namespace), lambda s: s["last_sequence"] == 2)
            assert ours["owner"]["pid"] == standby.process.pid
            standby.kill()
    publish(client, topics.submitted, [structured("d", uuid4())])
    gone = until(lambda: status(broker, namespace), lambda s: s["owned"] is False)
    last = f"{ours['owner']['host']} pid {standby.process.pid} (epoch {gone['epoch']})"
    assert told(gone) == [f"no owner: {last} was the last on record"]
    assert gone["backlog_entries"] == 1
    assert gone["backlog_oldest_s"] < WITHIN_S


def until(
    seen: Callable[[], tuple[int, list[dict[str, Any]]]], wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first look at the only partition that is as wanted."""
    for _ in range(int(WITHIN_S)):  # each takes about a second
        _, (_, partition) = seen()
        if wanted(partition):
            return partition
    raise AssertionError(f"not within {WITHIN_S} looks: {partition}")


async def _seen(broker: EmbeddedBroker, topics: Topics, index_dir: Path | None = None) -> Any:
    async with PulsarClient(broker.service_url) as client, AdminReader(broker.admin_url) as admin:
        return (await look(client, admin, topics, index_dir)).partitions[0]


def test_a_transaction_that_holds_back_readers(broker: EmbeddedBroker, namespace: str) -> None:
    topics = Topics(namespace)
    init(broker, namespace, 1)

    async def hold_and_look() -> tuple[str, Hold, Any]:
        partition = Partition(0, 1, topics)
        async with PulsarClient(broker.service_url) as client:
            office = await take_over(
                client, partition, await client.producer(partition.owners, access_mode=AccessMode.EXCLUSIVE)
            )
            transaction = await office.coordinator.new_txn(ttl_ms=TTL_MS)
            await office.coordinator.add_partitions(transaction, [partition.events])
            await office.events.send(b"", b"held", num_messages=1, txn=transaction)
            (hold,) = (await _seen(broker, topics)).holds
            await office.coordinator.end(transaction, commit=False)
            after = await _seen(broker, topics)
        return f"({transaction.most},{transaction.least})", hold, after

    transaction, hold, after = asyncio.run(hold_and_look())
    assert (hold.topic, hold.transactions, hold.stuck) == ("events-partition-0", 1, True)
    assert hold.silent_s is not None
    assert 0 <= hold.silent_s < HELD_LIMIT_S
    assert hold.transaction == transaction
    assert hold.open_s is not None
    assert 0 <= hold.open_s < HELD_LIMIT_S
    assert after.holds == ()


def test_what_should_not_be(broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path) -> None:
    """A record from the future, a stranger's producer and consumer, no compaction, an index that is ahead."""
    topics = Topics(namespace)
    init(broker, namespace, 1)

    async def spoil() -> None:
        async with PulsarClient(broker.service_url) as own:
            producer = await own.producer(topics.owners_partition(0), access_mode=AccessMode.EXCLUSIVE)
            future = OwnerLog(producer)
            future.epoch = 99
            await future.record([])

    asyncio.run(spoil())
    with VersionIndex.open(index_directory(tmp_path, namespace, 0), identity=topics.events_partition(0)) as index:
        index.apply({"a": 4}, [], accepted_at_ms=1, checkpoint=(5).to_bytes(24, "big"))
    admin = f"{broker.admin_url}/admin/v2/persistent/{namespace}"
    httpx.post(f"{admin}/events/compactionThreshold", json=0, timeout=ADMIN_LIMIT_S).raise_for_status()
    httpx.post(f"{admin}/submitted_events/messageTTL?messageTTL=60", timeout=ADMIN_LIMIT_S).raise_for_status()
    producer = client.create_producer(topics.events_partition(0))
    consumer = client.subscribe(topics.submitted_partition(0), "sequencer")
    _, (_, partition) = status(broker, namespace, "--index-dir", str(tmp_path))
    problems = " | ".join(told(partition))
    for text in (
        "the owner log holds epoch 99 but the broker is at 1",
        "no owner",
        "the subscription is held by something that is no sequencer",
        "a producer that is no sequencer is connected: events-partition-0",
        "the index knows 5 events that are not in events",
    ):
        assert text in problems
    _, (shared, _) = status(broker, namespace)
    assert told(shared) == [
        "events is never compacted: rebuilding an index will take longer and longer",
        "the broker drops submitted events that have waited 60 s, without an outcome",
    ]
    producer.send(b"not ours")
    foreign = asyncio.run(_seen(broker, topics))
    assert any("not written by a sequencer" in problem.what for problem in diagnose(foreign))
    producer.close()
    consumer.close()
    done = sequencer(broker, namespace, "status", "--admin-url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: cannot reach the admin interface")


def test_watch_ends_with_ctrl_c(broker: EmbeddedBroker, namespace: str) -> None:
    environment = os.environ | {
        "SEQUENCER_SERVICE_URL": broker.service_url,
        "SEQUENCER_ADMIN_URL": broker.admin_url,
        "SEQUENCER_NAMESPACE": namespace,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "sequencer", "status", "--watch", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in the background of a shell, it has told its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["namespace"] == namespace
    assert json.loads(process.stdout.readline())["namespace"] == namespace  # the next look
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, errors) == (130, b"interrupted\n")


def test_a_broker_that_is_not_there(namespace: str, broker: EmbeddedBroker) -> None:
    done = sequencer(broker, namespace, "status", "--service-url", "pulsar://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: Pulsar: 127.0.0.1:1")
