"""Compaction of `events` on a real broker: it runs by the policy that init sets, and what is left is enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pulsar
import pytest

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.entries import StoredEvent, read_events
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import MessageId
from sequencer.recovery import Checkpoint, checkpoint_of, recover
from sequencer.topics import TopicPlan
from state.index import VersionIndex
from tests.outcomes import Logs
from tests.publishing import Workload, publish
from tests.sequencer_process import SequencerProcess

AGGREGATES = 300
THRESHOLD_BYTES = 50_000
COMPACTED_WITHIN_S = 40.0
ASK_AGAIN_S = 0.1
ALL_WITHIN_S = 60.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """One that looks every second whether a topic has reached its threshold, not every minute."""
    embedded = EmbeddedBroker(
        tmp_path / "broker", extra_settings={"brokerServiceCompactionMonitorIntervalInSeconds": "1"}
    )
    embedded.start()
    yield embedded
    embedded.kill()


class View(NamedTuple):
    """What a reader gets of a topic."""

    events: list[StoredEvent]
    end: MessageId
    holes: int
    """Entries in which compaction has taken some messages out and left others."""


async def read(client: PulsarClient, topic: str, *, compacted: bool) -> View:
    """All of it."""
    ends = await client.reader(topic)
    end = await ends.last_message_id()
    reader = await client.reader(topic, read_compacted=compacted)
    events: list[StoredEvent] = []
    holes, position = 0, (-1, -1)
    while position < end[:2]:
        for entry in await reader.take(max_messages=10_000, max_bytes=1 << 24):
            left = list(read_events(entry))
            holes += 0 < len(left) < entry.metadata.num_messages_in_batch
            events += left
            position = entry.message_id[:2]
    return View(events, end, holes)


async def check_recovery(broker: EmbeddedBroker, topic: str, directory: Path) -> None:
    """An index that is rebuilt from the compacted view knows what the whole topic tells."""
    async with PulsarClient(broker.service_url) as client:
        whole = await read(client, topic, compacted=False)
        with VersionIndex.open(directory, identity=topic) as index:
            await recover(client, topic, index)
            assert dict(index.entries()) == {event.key: event.version for event in whole.events}
            assert checkpoint_of(index) == Checkpoint(whole.end.ledger, whole.end.entry, len(whole.events))
            assert [event.sequence for event in whole.events] == list(range(len(whole.events)))
            for event in whole.events:
                assert index.accepted([(event.event_id, event.key)])[0] == (event.version, event.sequence)


def await_compaction(broker: EmbeddedBroker, topic: str) -> View:
    """Return the compacted view when it has become much shorter than the topic."""

    async def look() -> tuple[View, View]:
        async with PulsarClient(broker.service_url) as client:
            return await read(client, topic, compacted=False), await read(client, topic, compacted=True)

    deadline_s = time.monotonic() + COMPACTED_WITHIN_S
    while True:
        whole, view = asyncio.run(look())
        if len(view.events) < len(whole.events) / 2:
            return view
        left = f"{len(view.events)} of {len(whole.events)} events left"
        assert time.monotonic() < deadline_s, f"not compacted within {COMPACTED_WITHIN_S:.0f} s: {left}"
        time.sleep(ASK_AGAIN_S)


@pytest.mark.slow
def test_compaction_by_policy_and_recovery_from_what_it_leaves(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topics = Topics()
    topic = topics.events_partition(0)
    plan = TopicPlan(partitions=1, compaction_threshold_bytes=THRESHOLD_BYTES)
    official = pulsar.Client(broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    workload = Workload(5, aggregates=AGGREGATES, conflicts=0.1)
    with Admin(broker.admin_url) as admin:
        for _ in initialize(lambda: PulsarClient(broker.service_url), admin, topics, plan):
            pass
        logs = Logs(official, broker, topics.namespace, 1)

        def submit(count: int, compression: Any) -> None:
            options = {"batching_enabled": True, "batching_max_messages": 50, "compression_type": compression}
            publish(official, topics.submitted, workload.take(count), **options)
            logs.read_submitted()
            logs.await_all(ALL_WITHIN_S, process.check_running)

        with SequencerProcess(broker, topics.namespace, tmp_path / "index") as process:
            submit(1500, pulsar.CompressionType.LZ4)
            submit(1500, pulsar.CompressionType.NONE)
            view = await_compaction(broker, topic)
            assert {event.key for event in view.events} == {f"account-{number}" for number in range(AGGREGATES)}
            assert view.holes > 0
            asyncio.run(check_recovery(broker, topic, tmp_path / "first"))
            # Beyond the compacted part; then that too.
            submit(3000, pulsar.CompressionType.ZSTD)
            asyncio.run(check_recovery(broker, topic, tmp_path / "second"))
            await_compaction(broker, topic)
            asyncio.run(check_recovery(broker, topic, tmp_path / "third"))
            process.stop()
        with SequencerProcess(broker, topics.namespace, tmp_path / "rebuilt") as process:
            submit(1000, pulsar.CompressionType.LZ4)
            process.stop()
        logs.check(tmp_path / "rebuilt")
    official.shutdown()
