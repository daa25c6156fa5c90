"""init, publish, tail and demo as a user runs them: processes of their own, the real broker, the official client."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulsar
import pytest

from sequencer.admin import Admin, AdminFailed
from sequencer.broker import EmbeddedBroker
from sequencer.event import canonical_partition
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.owner import OwnerLog
from sequencer.partition import Partition
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.client import AccessMode, PulsarClient
from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.topics import Step, TopicPlan, create_topics, is_primed

pytestmark = pytest.mark.integration

COMMAND_LIMIT_S = 110.0
RECEIVE_LIMIT_MS = 20_000
TTL_MS = 60_000
PARTITIONS = 2
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Sequencer:
    """The command line, told where the broker and the test's namespace are."""

    def __init__(self, broker: EmbeddedBroker, namespace: str) -> None:
        self.broker = broker
        self.topics = Topics(namespace)
        self.environment = os.environ | {
            "SEQUENCER_SERVICE_URL": broker.service_url,
            "SEQUENCER_ADMIN_URL": broker.admin_url,
            "SEQUENCER_NAMESPACE": namespace,
        }

    def __call__(self, *arguments: str, given: bytes = b"", exit_code: int = 0) -> subprocess.CompletedProcess[bytes]:
        """Runs a command to its end, which must have the exit code."""
        result = subprocess.run(
            self.command(*arguments),
            input=given,
            capture_output=True,
            env=self.environment,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert result.returncode == exit_code, result.stderr.decode()
        return result

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command prints, which is JSON lines."""
        return [json.loads(line) for line in self(*arguments).stdout.splitlines()]

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "sequencer", *arguments]


@pytest.fixture
def empty(broker: EmbeddedBroker, namespace: str) -> Sequencer:
    """A namespace without topics."""
    return Sequencer(broker, namespace)


@pytest.fixture
def sequencer(empty: Sequencer) -> Sequencer:
    """A namespace with topics."""
    empty("init", "--partitions", str(PARTITIONS))
    return empty


@pytest.fixture
def official(broker: EmbeddedBroker) -> Iterator[Any]:
    client = pulsar.Client(broker.service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull))
    yield client
    client.close()


def jsonl(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


# --- init ---


def test_init_makes_everything_once(empty: Sequencer) -> None:
    topics = empty.topics
    first = empty.lines("init", "--partitions", "2", "--json")
    assert all(step["changed"] for step in first)
    again = empty.lines("init", "--partitions", "2", "--json")
    assert [(step["topic"], step["what"]) for step in again] == [(step["topic"], step["what"]) for step in first]
    assert not any(step["changed"] for step in again)

    with Admin(empty.broker.admin_url) as admin:

        def policy(topic: str, name: str) -> Any:
            return admin.get(f"v2/persistent/{topic.removeprefix('persistent://')}/{name}")

        for topic, minutes in (
            (topics.submitted, 7 * 24 * 60),
            (topics.events, -1),
            (topics.rejected, 30 * 24 * 60),
            (topics.owners, -1),
        ):
            assert policy(topic, "partitions")["partitions"] == 2
            assert policy(topic, "retention") == {"retentionTimeInMinutes": minutes, "retentionSizeInMB": -1}
            assert policy(topic, "deduplicationEnabled") is False
        assert policy(topics.events, "compactionThreshold") == 100 * 1024 * 1024
        on_use = admin.get(f"v2/namespaces/{topics.replies_namespace}/autoTopicCreation")
        assert (on_use["allowAutoTopicCreation"], on_use["topicType"]) == (True, "non-partitioned")
        for n in range(2):
            assert policy(topics.submitted_partition(n), "subscriptions") == ["sequencer"]
            assert is_primed(admin, topics.events_partition(n))
            assert is_primed(admin, topics.rejected_partition(n))
            assert not is_primed(admin, topics.owners_partition(n))


def test_init_with_other_retentions_changes_the_policies(sequencer: Sequencer) -> None:
    options = ["--submitted-retention-days", "-1", "--rejected-retention-days", "3"]
    steps = sequencer.lines("init", "--partitions", str(PARTITIONS), *options, "--json")
    changed = [(step["topic"], step["what"]) for step in steps if step["changed"]]
    assert changed == [
        (sequencer.topics.submitted, "retention for ever"),
        (sequencer.topics.rejected, "retention 3 days"),
    ]


def test_init_does_not_change_the_number_of_partitions(sequencer: Sequencer) -> None:
    refusal = sequencer("init", "--partitions", "3", exit_code=1).stderr.decode()
    assert refusal.startswith("error: submitted_events has 2 partitions, events has 2 partitions,")
    assert "but 3 were asked for" in refusal
    assert len(refusal.splitlines()) == 1


def test_init_does_not_go_on_from_topics_that_disagree(empty: Sequencer) -> None:
    with Admin(empty.broker.admin_url) as admin:
        admin.put(f"v2/persistent/{empty.topics.namespace}/rejected_events/partitions", 5)
    refusal = empty("init", "--partitions", "2", exit_code=1).stderr.decode()
    assert refusal.startswith("error: rejected_events has 5 partitions, but 2 were asked for")
    with Admin(empty.broker.admin_url) as admin, pytest.raises(AdminFailed, match="404"):
        admin.get(f"v2/persistent/{empty.topics.namespace}/events/partitions")


def test_init_completes_a_creation_that_was_cut_short(sequencer: Sequencer) -> None:
    lost = f"v2/persistent/{sequencer.topics.namespace}/events-partition-1"
    with Admin(sequencer.broker.admin_url) as admin:
        admin.delete(lost, {"force": "true"})
    steps = sequencer.lines("init", "--partitions", str(PARTITIONS), "--json")
    changed = [(step["topic"], step["what"]) for step in steps if step["changed"]]
    assert changed == [
        (sequencer.topics.events, "2 partitions"),
        (sequencer.topics.events_partition(1), "primed"),
    ]


def test_init_leaves_nothing_that_can_be_seen(sequencer: Sequencer, official: Any) -> None:
    for name in ("events", "rejected", "submitted"):
        assert sequencer("tail", name).stdout == b""
    reader = official.create_reader(sequencer.topics.events_partition(0), pulsar.MessageId.earliest)
    assert not reader.has_message_available()


def test_commands_without_init_say_so(empty: Sequencer) -> None:
    for arguments in (["publish"], ["tail", "events"], ["tail", "events", "--follow"]):
        told = empty(*arguments, exit_code=1).stderr.decode()
        assert told.startswith("error: there is no partitioned topic persistent://")
        assert "sequencer init" in told


# --- Priming ---


def test_the_first_commit_after_priming_is_visible(sequencer: Sequencer) -> None:
    topic = sequencer.topics.events_partition(0)

    async def commit_one() -> bytes:
        async with PulsarClient(sequencer.broker.service_url) as client:
            await in_transaction(client, topic, [("a", b"1")], commit=True)
            reader = await client.reader(topic)
            return (await reader.take(max_messages=10, max_bytes=10_000))[0].payload

    assert b"1" in asyncio.run(commit_one())


def test_a_partition_with_an_owner_is_not_primed_by_anybody_else(empty: Sequencer) -> None:
    topics = empty.topics

    async def own(ready: asyncio.Event, done: asyncio.Event) -> None:
        async with PulsarClient(empty.broker.service_url) as client:
            await client.producer(topics.owners_partition(0), access_mode=AccessMode.EXCLUSIVE)
            ready.set()
            await done.wait()

    async def init_beside_an_owner() -> list[Step]:
        with Admin(empty.broker.admin_url) as admin:
            for _ in create_topics(admin, topics, TopicPlan(1)):
                pass
            ready, done = asyncio.Event(), asyncio.Event()
            owner = asyncio.create_task(own(ready, done))
            await ready.wait()
            steps = await asyncio.to_thread(
                lambda: list(initialize(lambda: PulsarClient(empty.broker.service_url), admin, topics, TopicPlan(1)))
            )
            done.set()
            await owner
            return steps

    steps = asyncio.run(init_beside_an_owner())
    assert [step for step in steps if step.changed] == []
    with Admin(empty.broker.admin_url) as admin:
        assert not is_primed(admin, topics.events_partition(0))


def test_a_priming_that_a_crash_left_open_is_ended_by_the_next_owner(empty: Sequencer) -> None:
    """Its transaction is in the owner log: the topic is not kept closed until the transaction's time is over."""
    topics = empty.topics

    async def crash_in_the_middle() -> None:
        partition = Partition(0, 1, topics)
        async with PulsarClient(empty.broker.service_url) as client:
            owner = await client.producer(topics.owners_partition(0), access_mode=AccessMode.EXCLUSIVE)
            output = await client.producer(partition.events)
            coordinator = await client.coordinator(0)
            txn = await coordinator.new_txn(ttl_ms=3_600_000)
            await OwnerLog(owner).record([txn])
            await coordinator.add_partitions(txn, [partition.events])
            await output.send(b"", b"priming", num_messages=1, txn=txn)

    async def commit_and_read() -> bytes:
        async with PulsarClient(empty.broker.service_url) as client:
            await in_transaction(client, topics.events_partition(0), [("a", b"1")], commit=True)
            reader = await client.reader(topics.events_partition(0))
            return (await asyncio.wait_for(reader.take(max_messages=1, max_bytes=1), RECEIVE_LIMIT_MS / 1000))[
                0
            ].payload

    with Admin(empty.broker.admin_url) as admin:
        for _ in create_topics(admin, topics, TopicPlan(1)):
            pass
    asyncio.run(crash_in_the_middle())
    empty("init", "--partitions", "1")
    assert b"1" in asyncio.run(commit_and_read())


# --- publish ---


def test_publish(sequencer: Sequencer, official: Any, tmp_path: Path) -> None:
    keys = [f"ключ-{n}" if n % 2 else f"key-{n}" for n in range(50)]
    events: list[dict[str, Any]] = [
        {"key": keys[n % 50], "version": n // 50 - 1, "data": {"n": n}, "trace": "t"} for n in range(2000)
    ]
    events[7]["id"] = ID
    file = tmp_path / "events.jsonl"
    file.write_bytes(jsonl(*events))
    summary = json.loads(sequencer("publish", "--json", str(file)).stdout)
    assert (summary["published"], summary["bad_lines"]) == (2000, 0)

    received = []
    ids = set()
    for partition in range(PARTITIONS):
        reader = official.create_reader(sequencer.topics.submitted_partition(partition), pulsar.MessageId.earliest)
        while reader.has_message_available():
            message = reader.read_next(RECEIVE_LIMIT_MS)
            payload = json.loads(message.data())
            assert canonical_partition(message.partition_key(), PARTITIONS) == partition
            assert payload["trace"] == "t"
            ids.add(payload["id"])
            received.append((message.partition_key(), payload["version"], payload["data"]["n"]))
    assert sorted(received, key=lambda event: event[2]) == [
        (event["key"], event["version"], event["data"]["n"]) for event in events
    ]
    assert len(ids) == 2000
    assert ID in ids


def test_bad_lines_are_named_and_the_others_go(sequencer: Sequencer) -> None:
    given = jsonl({"key": "a", "data": 1}) + b"nonsense\n\n" + jsonl({"data": 1}, {"key": "b", "data": 2})
    result = sequencer("publish", given=given, exit_code=1)
    assert [line.split(b":")[0] for line in result.stderr.splitlines()] == [b"line 2", b"line 4"]
    assert result.stdout.startswith(b"2 events in ")
    assert b"2 bad lines" in result.stdout
    assert {line["key"] for line in sequencer.lines("tail", "submitted")} == {"a", "b"}


def test_publishing_nothing(sequencer: Sequencer) -> None:
    assert sequencer("publish").stdout.startswith(b"0 events in ")


def test_a_line_as_large_as_a_message_may_be(sequencer: Sequencer) -> None:
    small, large = 4 << 20, (5 << 20) - 30  # The line just fits; with its id the message does not.
    given = jsonl({"key": "a", "data": "x" * small}, {"key": "a", "data": "x" * large}, {"key": "a", "data": 3})
    result = sequencer("publish", "--json", given=given, exit_code=1)
    assert json.loads(result.stdout)["published"] == 2
    assert result.stderr == b"line 2: larger than the largest message that the broker takes\n"
    assert [len(str(line["data"]["data"])) for line in sequencer.lines("tail", "submitted")] == [small, 1]


# --- tail ---


def test_tail_shows_what_the_official_client_sent(sequencer: Sequencer, official: Any) -> None:
    producer = official.create_producer(
        sequencer.topics.submitted_partition(1), batching_enabled=True, compression_type=pulsar.CompressionType.ZSTD
    )
    payloads = [b'{"a": 1.50}', b"\x00\xff", b"text", b"null"]
    for number, payload in enumerate(payloads):
        producer.send_async(payload, lambda *_: None, {"n": str(number)}, partition_key="k")
    producer.flush()
    producer.send(b"[]", partition_key="other")
    lines = sequencer.lines("tail", "submitted")
    assert [line["properties"] for line in lines] == [{"n": "0"}, {"n": "1"}, {"n": "2"}, {"n": "3"}, {}]
    assert [line["key"] for line in lines] == ["k"] * 4 + ["other"]
    assert [line["data"] for line in lines if "data" in line] == [{"a": 1.5}, None, []]
    assert [base64.b64decode(line["data_base64"]) for line in lines if "data_base64" in line] == payloads[1:3]
    assert {line["partition"] for line in lines} == {1}
    assert len({line["message_id"] for line in lines}) == 5
    assert [line["key"] for line in sequencer.lines("tail", "submitted", "--key", "other")] == ["other"]
    assert sequencer.lines("tail", "submitted", "--key", "nobody") == []


@pytest.mark.parametrize("ends_with", ["commit", "abort", "open transaction"])
def test_tail_stops_whatever_the_end_is(sequencer: Sequencer, ends_with: str) -> None:
    topic = sequencer.topics.events_partition(0)

    async def fill() -> None:
        async with PulsarClient(sequencer.broker.service_url) as client:
            await in_transaction(client, topic, [("a", b"1"), ("b", b"2")], commit=True)
            await in_transaction(client, topic, [("a", b"3")], commit=False)
            await in_transaction(client, topic, [("b", b"4"), ("a", b"5")], commit=True)
            if ends_with == "abort":
                await in_transaction(client, topic, [("a", b"6")], commit=False)
            if ends_with == "open transaction":
                await in_transaction(client, topic, [("a", b"7")], commit=None)

    asyncio.run(fill())
    assert [(line["key"], line["data"]) for line in sequencer.lines("tail", "events")] == [
        ("a", 1),
        ("b", 2),
        ("b", 4),
        ("a", 5),
    ]


def test_follow_goes_on_until_ctrl_c(sequencer: Sequencer, official: Any) -> None:
    producer = official.create_producer(sequencer.topics.submitted_partition(0))
    producer.send(b"1", partition_key="a")
    with sequencer.start("tail", "submitted", "--follow") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert json.loads(tail.stdout.readline())["data"] == 1
        producer.send(b"2", partition_key="a")
        assert json.loads(tail.stdout.readline())["data"] == 2
        tail.send_signal(signal.SIGINT)
        assert tail.wait(COMMAND_LIMIT_S) == 130
        assert tail.stdout.read() == b""
        assert tail.stderr.read() == b"interrupted\n"


def test_a_reader_who_has_seen_enough_is_no_failure(sequencer: Sequencer, official: Any) -> None:
    producer = official.create_producer(sequencer.topics.submitted_partition(0), batching_enabled=True)
    for number in range(5000):
        producer.send_async(json.dumps(number).encode(), lambda *_: None, partition_key="a")
    producer.flush()
    with sequencer.start("tail", "submitted") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert json.loads(tail.stdout.readline())["data"] == 0
        tail.stdout.close()
        assert tail.wait(COMMAND_LIMIT_S) == 0
        assert tail.stderr.read() == b""


# --- demo ---


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = Sequencer.command("demo")
    result = subprocess.run(command, capture_output=True, env=environment, timeout=COMMAND_LIMIT_S, check=False)
    assert result.returncode == 0, result.stderr.decode()
    table = result.stdout.decode()
    assert "wrong_expected_version" in table
    assert "duplicate of version 2" in table
    assert table.count("accepted") == 4
    assert b"stopping everything" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- Help for the above ---


async def in_transaction(
    client: PulsarClient, topic: str, messages: list[tuple[str, bytes]], *, commit: bool | None
) -> TxnId:
    """Sends a batch of (key, payload) in a transaction and ends it; None leaves it open."""
    coordinator = await client.coordinator(0)
    txn = await coordinator.new_txn(ttl_ms=TTL_MS)
    await coordinator.add_partitions(txn, [topic])
    parts = [
        (SingleMessageMetadata(partition_key=key, payload_size=len(payload)).SerializeToString(), payload)
        for key, payload in messages
    ]
    batch = join_batch(parts)
    metadata = MessageMetadata(num_messages_in_batch=len(parts), uncompressed_size=len(batch))
    producer = await client.producer(topic)
    await producer.send(metadata.SerializePartialToString(), batch, num_messages=len(parts), txn=txn)
    await producer.close()
    if commit is not None:
        await coordinator.end(txn, commit=commit)
    return txn
