"""What no official client sends: batches that are none, compression that is broken, sizes that lie. Each has its
outcome, with its bytes, and the partition goes on. `sequencer verify` agrees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.entries import StoredEvent, read_events
from sequencer.names import Topics
from sequencer.pulsar.batches import Compression, compress, decompress, join_batch, split_batch
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import Entry
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.sequencer_process import SequencerProcess, init, sequencer
from tests.submitted import Message, event_id, message, raw_property, structured

ALL_WITHIN_S = 30.0
COMPRESSED = [kind for kind in Compression if kind is not Compression.NONE]
GOOD = join_batch([message(structured(event_id(f"in a batch {n}")), "other") for n in range(2)])
BOMB = bytes(48 * 2**20)


def fields(**others: Any) -> MessageMetadata:
    return MessageMetadata(**{"partition_key": "account-1", **others})


def hostile() -> list[tuple[str, MessageMetadata, bytes]]:
    """The reason that each is rejected for, and what is sent.

    No batch here claims 0 messages or fewer: where the claims of what the broker (4.2.4) reads at once add up to 0, it
    delivers nothing of it, to nobody.
    """
    batch = {"num_messages_in_batch": 2, "uncompressed_size": len(GOOD)}
    sent = [
        ("malformed", fields(**batch), b"\xff" * 100),
        ("malformed", fields(**batch), GOOD[:-1]),
        ("malformed", fields(**batch), GOOD + b"x"),
        ("malformed", fields(**{**batch, "num_messages_in_batch": 3}), GOOD),
        ("too_large", fields(**{**batch, "num_messages_in_batch": 2**31 - 1}), GOOD),
        ("malformed", fields(uncompressed_size=9, num_messages_in_batch=1), b"\xff\xff\xff\xff\x08\x01\x18\x00x"),
    ]
    for kind in COMPRESSED:
        packed = compress(kind, GOOD)
        sent += [
            ("malformed", fields(**batch, compression=kind), packed[:-3]),
            ("malformed", fields(**batch, compression=kind), b"\xff" * 60),
            ("malformed", fields(**{**batch, "uncompressed_size": len(GOOD) - 1}, compression=kind), packed),
            ("malformed", fields(**{**batch, "uncompressed_size": 2**20}, compression=kind), packed),
            ("too_large", fields(**{**batch, "uncompressed_size": 2**32 - 1}, compression=kind), packed),
            ("malformed", fields(**batch, compression=kind), compress(kind, BOMB)),
        ]
    return sent


async def publish(service_url: str, topic: str) -> int:
    """One hostile entry after the other, and a good event after each. Returns how many of them."""
    sent = hostile()
    async with PulsarClient(service_url) as client:
        producer = await client.producer(topic)
        for number, (_, metadata, payload) in enumerate(sent):
            producer.send(metadata.SerializePartialToString(), payload, 1)
            good = structured(event_id(f"{number}"), version=number - 1)
            head = fields(uncompressed_size=len(good)).SerializePartialToString()
            await producer.send(head, good, 1)
    return len(sent)


async def read(service_url: str, topic: str, count: int) -> list[tuple[dict[str, str], bytes]]:
    """Properties and payload of so many messages."""
    found: list[tuple[dict[str, str], bytes]] = []
    async with PulsarClient(service_url) as client, asyncio.timeout(ALL_WITHIN_S):
        reader = await client.reader(topic)
        while len(found) < count:
            for entry in await reader.take(max_messages=100, max_bytes=2**22):
                found += messages_of(entry)
    return found


def messages_of(entry: Entry) -> list[tuple[dict[str, str], bytes]]:
    metadata = entry.metadata
    plain = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, 2**26)
    return [(properties(single), body) for single, _, body in split_batch(plain, metadata.num_messages_in_batch)]


def properties(single: SingleMessageMetadata) -> dict[str, str]:
    return {field.key: field.value for field in single.properties}


def test_each_is_rejected_with_its_bytes_and_the_partition_goes_on(
    broker: EmbeddedBroker, namespace: str, tmp_path: Path
) -> None:
    init(broker, namespace, 1)
    topics = Topics(namespace)
    with SequencerProcess(broker, namespace, tmp_path) as process:
        count = asyncio.run(publish(broker.service_url, topics.submitted_partition(0)))
        accepted = asyncio.run(read(broker.service_url, topics.events_partition(0), count))
        rejected = asyncio.run(read(broker.service_url, topics.rejected_partition(0), count))
        process.stop()
    assert [told["version"] for told, _ in accepted] == [str(number) for number in range(count)]
    assert [(told["reason"], payload) for told, payload in rejected] == [
        (reason, payload) for reason, _, payload in hostile()
    ]
    verified = sequencer(broker, namespace, "verify", "--json", "--index-dir", str(tmp_path))
    assert verified.returncode == 0, verified.stdout.decode()
    assert json.loads(verified.stdout)["ok"] is True


# --- what would spoil the compaction of `events` ---


GROUP = b"\x7b\x7c"
"""A field that nobody knows, of a type that the broker's own parser refuses."""


def with_group(key: str) -> list[Message]:
    head, payload = message(structured(event_id(key)), key)
    return [(head + GROUP, payload), message(structured(event_id(f"{key}, after it")), key)]


def with_group_in_a_property(key: str) -> list[Message]:
    head, payload = message(structured(event_id(key)), key)
    whole = raw_property(b"mine", b"1")
    return [(b"\x0a" + bytes([whole[1] + len(GROUP)]) + whole[2:] + GROUP + head, payload)]


def closed(key: str, size: int) -> MessageMetadata:
    """Encrypted, with its id in the open; the size of what is inside is the publisher's word."""
    metadata = MessageMetadata(partition_key=key, uncompressed_size=size, encryption_param=b"nonce")
    metadata.encryption_keys.add(key="ours", value=b"wrapped key")
    metadata.properties.add(key="id", value=event_id(key))
    return metadata


async def submit_spoilers(service_url: str, topic: str) -> None:
    async with PulsarClient(service_url) as client:
        producer = await client.producer(topic)
        for parts in (with_group("group"), with_group_in_a_property("group in a property")):
            metadata = MessageMetadata(num_messages_in_batch=len(parts))
            await producer.send(metadata.SerializePartialToString(), join_batch(parts), len(parts))
        for key, size in (("no size", 0), ("negative in Java", 2**31), ("closed", 5)):
            await producer.send(closed(key, size).SerializePartialToString(), b"sealed", 1)


async def events_of(service_url: str, topic: str, *, compacted: bool, count: int) -> list[StoredEvent]:
    """The first so many."""
    found: list[StoredEvent] = []
    async with PulsarClient(service_url) as client, asyncio.timeout(ALL_WITHIN_S):
        reader = await client.reader(topic, read_compacted=compacted)
        while len(found) < count:
            for entry in await reader.take(max_messages=100, max_bytes=2**22):
                found += read_events(entry)
    return found


async def compact(broker: EmbeddedBroker, topic: str) -> None:
    """Returns when it is done, which it must be."""
    path = f"v2/{topic.replace('://', '/')}/compaction"
    with Admin(broker.admin_url) as admin:
        admin.put(path)
        async with asyncio.timeout(ALL_WITHIN_S):
            while (told := admin.get(path)["status"]) != "SUCCESS":
                assert told == "RUNNING", admin.get(path)
                await asyncio.sleep(0.05)  # it is not told otherwise


def test_nothing_that_is_submitted_spoils_the_compaction_of_events(
    broker: EmbeddedBroker, namespace: str, tmp_path: Path
) -> None:
    """An aggregate that it loses would begin anew in an index that is rebuilt; and it must not fail."""
    init(broker, namespace, 1)
    topics, url = Topics(namespace), broker.service_url
    with SequencerProcess(broker, namespace, tmp_path) as process:
        asyncio.run(submit_spoilers(url, topics.submitted_partition(0)))
        events = asyncio.run(events_of(url, topics.events_partition(0), compacted=False, count=4))
        process.stop()
    tails = {"group": 1, "group in a property": 0, "closed": 0}
    assert {event.key: event.version for event in events} == tails
    asyncio.run(compact(broker, topics.events_partition(0)))
    left = asyncio.run(events_of(url, topics.events_partition(0), compacted=True, count=len(tails)))
    assert {event.key: event.version for event in left} == tails
