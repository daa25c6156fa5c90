"""From the entries of `events` to what a subscription gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sequencer.client.errors import SequenceGap, Undecodable
from sequencer.client.recorded import Stored, read_new, recorded
from sequencer.client.subscription import FROM_THE_START
from sequencer.client.values import JSON, Checkpoint, Codec, PartitionPoint, json_codec
from sequencer.pulsar.batches import compress, join_batch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import CompressionType, MessageMetadata, SingleMessageMetadata

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def properties_of(sequence: int, **more: str) -> dict[str, str]:
    return {"id": ID, "version": "4", "sequence": str(sequence), "submission": "1:2:3:4", **more}


def entry_of(*sequences: int, entry: int = 7, compression: int = CompressionType.NONE, damage: str = "") -> Entry:
    parts = []
    for sequence in sequences:
        single = SingleMessageMetadata(partition_key="a", payload_size=1)
        for name, value in properties_of(sequence, type="opened").items():
            single.properties.add(key=name, value=value)
        parts.append((single.SerializeToString(), b"x"))
    data = join_batch(parts)
    metadata = MessageMetadata(
        producer_name="s",
        sequence_id=1,
        publish_time=1700,
        num_messages_in_batch=len(parts),
        compression=compression,
        uncompressed_size=len(data),
    )
    return Entry(MessageId(5, entry, 3), metadata, compress(compression, data), 0, (), damage)


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD])
def test_a_batch_is_read_from_the_start(compression: int) -> None:
    events, point = read_new(entry_of(0, 1, 2, compression=compression), 3, FROM_THE_START)
    assert [event.sequence for event in events] == [0, 1, 2]
    assert [str(event.position) for event in events] == ["5:7:3:0", "5:7:3:1", "5:7:3:2"]
    assert (events[0].key, events[0].version, events[0].published_at_ms) == ("a", 4, 1700)
    assert point == PartitionPoint(3, MessageId(5, 7, 3, 2))


def test_what_has_been_read_is_passed_over() -> None:
    point = PartitionPoint(2, MessageId(5, 7, 3, 1))
    events, after = read_new(entry_of(0, 1, 2), 3, point)
    assert [event.sequence for event in events] == [2]
    assert read_new(entry_of(0, 1, 2), 3, after) == ([], after)
    assert read_new(entry_of(0, 1, entry=6), 3, after) == ([], after)


def test_where_nothing_is_known_any_sequence_is_the_first() -> None:
    events, point = read_new(entry_of(8, 9), 3, PartitionPoint(None, MessageId(5, 6, 3, 4)))
    assert [event.sequence for event in events] == [8, 9]
    assert point.next_sequence == 10


def test_what_a_group_has_acknowledged_of_an_entry_is_passed_over() -> None:
    entry = entry_of(*range(70))._replace(ack_set=(-(2**63), 0b111111))
    events, _ = read_new(entry, 3, PartitionPoint(None, MessageId(-1, -1)))
    assert [event.sequence for event in events] == list(range(63, 70))
    assert len(read_new(entry_of(*range(70)), 3, FROM_THE_START)[0]) == 70


def test_a_checkpoint_of_another_topic_does_not_pass_over_everything_for_ever() -> None:
    with pytest.raises(SequenceGap):
        read_new(entry_of(7, 8), 3, PartitionPoint(7, MessageId(2**40, 0, 3, 0)))


@pytest.mark.parametrize(("sequences", "expected", "found"), [((1,), 0, 1), ((0, 2), 1, 2), ((0, 0), 1, 0)])
def test_a_gap_and_a_repeat_are_found(sequences: tuple[int, ...], expected: int, found: int) -> None:
    with pytest.raises(SequenceGap, match=f"sequence {found} instead of {expected}") as gap:
        read_new(entry_of(*sequences), 3, FROM_THE_START)
    assert (gap.value.partition, gap.value.expected, gap.value.found) == (3, expected, found)


def test_a_single_message_and_an_encrypted_one() -> None:
    metadata = MessageMetadata(producer_name="s", sequence_id=1, publish_time=1, partition_key="a")
    for name, value in properties_of(0).items():
        metadata.properties.add(key=name, value=value)
    (event,), _ = read_new(Entry(MessageId(5, 7), metadata, b"x", 0, (), ""), 3, FROM_THE_START)
    assert (event.payload, str(event.position)) == (b"x", "5:7:3:-1")
    metadata.encryption_keys.add(key="k", value=b"v")
    metadata.compression, metadata.uncompressed_size = CompressionType.ZSTD, 99
    (event,), _ = read_new(Entry(MessageId(5, 7), metadata, b"sealed", 0, (), ""), 3, FROM_THE_START)
    assert event.payload == b"sealed"


def test_what_no_sequencer_wrote_is_told() -> None:
    damaged = entry_of(0, damage="the checksum does not match")
    cut = entry_of(0)._replace(payload=entry_of(0).payload[:-1])
    foreign = Entry(MessageId(5, 7), MessageMetadata(producer_name="s", sequence_id=1, publish_time=1), b"x", 0, (), "")
    for entry in (damaged, cut, foreign):
        with pytest.raises(Undecodable, match="5:7:3:-1"):
            read_new(entry, 3, FROM_THE_START)


def stored(payload: bytes) -> Stored:
    properties = properties_of(0, type="opened", something="else")
    return Stored(3, MessageId(5, 7, 3, 0), "a", 4, 0, properties, payload, 1700, 1)


CHECKPOINT = Checkpoint({3: PartitionPoint(1, MessageId(5, 7, 3, 0))})


def data_of(payload: bytes, codec: Codec[Any] = JSON) -> Any:
    return recorded(stored(payload), CHECKPOINT, codec).data


def test_structured_data_goes_through_the_codec() -> None:
    payload = json.dumps({"id": ID, "version": 3, "data": {"n": 1}, "more": 2}).encode()
    event = recorded(stored(payload), CHECKPOINT, json_codec(dict[str, int]))
    assert (event.data, event.id, event.checkpoint) == ({"n": 1}, ID, CHECKPOINT)
    assert event.attributes == {"type": "opened"}
    assert event.properties["something"] == "else"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\xff",
        b"1",
        b'{"data": 1}',
        json.dumps({"id": ID}).encode(),
        json.dumps({"id": ID.upper(), "data": 1}).encode(),
        b"[" * 100_000,
    ],
)
def test_anything_else_is_binary(payload: bytes) -> None:
    assert data_of(payload) == payload
    assert data_of(payload, Codec(bytes, bytes, binary=len)) == len(payload)


def test_what_the_codec_does_not_take_is_told() -> None:
    payload = json.dumps({"id": ID, "data": "text"}).encode()
    with pytest.raises(Undecodable, match="5:7:3:0"):
        data_of(payload, json_codec(int))


def test_a_checkpoint_survives_being_stored() -> None:
    points = {0: PartitionPoint(7, MessageId(5, 7, 0, 3)), 12: PartitionPoint(None, MessageId(8, 0, 12, -1))}
    checkpoint = Checkpoint(points)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
    moved = checkpoint.after(0, PartitionPoint(8, MessageId(5, 8, 0, 0)))
    assert moved.points[0].next_sequence == 8
    assert checkpoint.points == points


@pytest.mark.parametrize("text", ["", "7", "{", '{"0": [1]}', '{"0": [1, "a:b:c:d"]}', '{"0": [1, "1:2:3"]}'])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        Checkpoint.from_json(text)
