"""What an outcome says of its message, and outcomes as entries."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from sequencer.entries import read_events, read_submitted
from sequencer.event import Accepted, Forwarded, Reason, Rejected, Source, Submission
from sequencer.packing import (
    OUTPUT_BATCH_BYTES,
    OUTPUT_BATCH_MESSAGES,
    Messages,
    Output,
    accepted_messages,
    pack,
)
from sequencer.plain import AcceptedRun, PlainBatch
from sequencer.pulsar.batches import Compression, compress, join_columns
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.judged import accepted_head, forwarded_head, opened, rejected_head, submission
from tests.submitted import (
    BINARY,
    ID,
    KEY,
    MAX_MESSAGE_BYTES,
    batch,
    delivered,
    event_id,
    message,
    properties_of,
    sealed_entry,
    single,
    structured,
)

MIB = 1024 * 1024
COMPRESSIONS = list(Compression)
SOURCE = Source("7:3:0:", 0, b"", None)

# --- outcomes: properties ---

OURS = ("id", "version", "sequence", "submission", "expected_version", "current_version", "accepted_version", "reason",
        "detail")  # fmt: skip


MINE = {name: f"publishers-{name}" for name in OURS} | {"id": ID, "version": "3"}


@pytest.mark.parametrize("batched", [True, False])
def test_an_accepted_event_replaces_its_own_properties_and_keeps_others(batched: bool) -> None:
    properties = [("a", "1"), *MINE.items(), ("sequence", "a second time"), ("z", "2")]
    entry = batch([message(b"x", properties=properties)]) if batched else single(b"x", properties=properties)
    assert properties_of(accepted_head(Accepted(submission(entry), 4, 17))) == {
        "a": "1", "z": "2", "id": ID, "version": "4", "sequence": "17",
        "submission": "7:3:0:0" if batched else "7:3:0:-1", "reason": "publishers-reason",
        "expected_version": "publishers-expected_version", "current_version": "publishers-current_version",
        "accepted_version": "publishers-accepted_version", "detail": "publishers-detail",
    }  # fmt: skip


@pytest.mark.parametrize("batched", [True, False])
def test_a_rejected_event_replaces_its_own_properties_and_keeps_others(batched: bool) -> None:
    properties = [("a", "1"), *MINE.items(), ("version", "3"), ("z", "2")]
    entry = batch([message(b"x", properties=properties)]) if batched else single(b"x", properties=properties)
    rejected = Rejected(submission(entry), Reason.DUPLICATE, "why", 3, 8, accepted=4)
    assert properties_of(rejected_head(rejected)) == {
        "a": "1", "z": "2", "id": ID, "expected_version": "3", "current_version": "8", "accepted_version": "4",
        "reason": "duplicate", "detail": "why", "submission": "7:3:0:0" if batched else "7:3:0:-1",
        "sequence": "publishers-sequence",
    }  # fmt: skip


@pytest.mark.parametrize("batched", [True, False])
def test_a_forwarded_message_stays_as_it_was_but_for_where_it_comes_from(batched: bool) -> None:
    properties = [*MINE.items(), ("a", "1")]
    entry = batch([message(b"x", properties=properties)]) if batched else single(b"x", properties=properties)
    original = submission(entry)
    copy = batch([(forwarded_head(Forwarded(original, 1)), original.payload)])
    assert not original.forwarded
    read = submission(copy)
    assert read.forwarded
    assert (read.key, read.event_id, read.expected, read.payload) == (
        original.key, original.event_id, original.expected, original.payload,
    )  # fmt: skip
    assert properties_of(read.head) == dict(properties) | {"forwarded_from": "7:3:0:0" if batched else "7:3:0:-1"}
    assert properties_of(accepted_head(Accepted(read, 0, 0)))["forwarded_from"].startswith("7:3:0:")


def test_a_property_that_an_outcome_lacks_does_not_stay_from_the_publisher() -> None:
    read = submission(single(b"x", properties={**BINARY, "accepted_version": "0", "current_version": "1"}))
    found = properties_of(rejected_head(Rejected(read, Reason.MISROUTED, "", 3)))
    assert "accepted_version" not in found
    assert "current_version" not in found


def test_an_outcome_keeps_everything_else_of_the_message() -> None:
    fields: dict[str, Any] = {
        "event_time": 12, "ordering_key": b"\x01", "partition_key_b64_encoded": True, "sequence_id": 3,
    }  # fmt: skip
    payload = structured()
    read = submission(batch([message(payload, "a2V5", {"p": "q"}, **fields)]))
    for outcome in (accepted_head(Accepted(read, 0, 0)), rejected_head(Rejected(read, Reason.DUPLICATE))):
        metadata = SingleMessageMetadata.FromString(outcome)
        assert {name: getattr(metadata, name) for name in fields} == fields
        assert (metadata.partition_key, metadata.payload_size, metadata.properties[0].key) == (
            "a2V5",
            len(payload),
            "p",
        )


# --- packing ---


def outcomes(
    payloads: Sequence[bytes], compression: int = 0, schema_version: bytes = b"", position: str = "7:3:0:"
) -> list[Messages]:
    source = Source(position, compression, schema_version, None)
    packed = []
    for n, payload in enumerate(payloads):
        head, _ = message(payload)
        read = Submission(KEY, b"", ID, None, head, None, payload, source, n)
        packed.append(accepted_messages(Accepted(read, n, n)))
    return packed


def bodies(outputs: Sequence[Output]) -> list[list[bytes]]:
    return [[body for _, body in opened(output)] for output in outputs]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_was_packed_comes_back_in_order(compression: int) -> None:
    payloads = [structured(data=n) for n in range(100)]
    packed = outcomes(payloads, compression, b"schema")
    (output,) = pack(packed, MAX_MESSAGE_BYTES)
    assert MessageMetadata.FromString(output.metadata) == MessageMetadata(
        num_messages_in_batch=100, compression=compression or None, schema_version=b"schema",
        uncompressed_size=len(join_columns([one.heads[0] for one in packed], payloads)),
    )  # fmt: skip
    assert opened(output) == [
        (SingleMessageMetadata.FromString(one.heads[0]), payload) for one, payload in zip(packed, payloads, strict=True)
    ]
    assert [event.sequence for event in read_events(delivered(output))] == list(range(100))


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_what_does_not_shrink_is_not_compressed(compression: int) -> None:
    payload = os.urandom(100_000)
    assert len(compress(compression, payload)) > len(payload)
    (output,) = pack(outcomes([payload], compression), MAX_MESSAGE_BYTES)
    metadata = MessageMetadata.FromString(output.metadata)
    assert not metadata.HasField("compression")
    assert metadata.uncompressed_size == len(output.payload)
    assert bodies([output]) == [[payload]]


def test_nothing_packs_to_nothing() -> None:
    assert list(pack([], MAX_MESSAGE_BYTES)) == []


def test_entries_of_one_kind_share_an_output() -> None:
    first, second = outcomes([b"1", b"2"]), outcomes([b"3"], position="7:4:0:")
    assert bodies(list(pack(first + second, MAX_MESSAGE_BYTES))) == [[b"1", b"2", b"3"]]


def test_another_compression_or_schema_or_a_sealed_message_begins_another_output() -> None:
    sealed = submission(sealed_entry())
    assert sealed.source.compression == Compression.LZ4
    messages = [
        *outcomes([b"1"]),
        *outcomes([b"2"], schema_version=b"v2"),
        *outcomes([b"3" * 900], Compression.LZ4, b"v2"),
        *outcomes([b"4" * 900], Compression.ZSTD, b"v2"),
        *outcomes([b"5" * 900], Compression.LZ4),
        accepted_messages(Accepted(sealed, 0, 0)),
        accepted_messages(Accepted(sealed, 1, 1)),
        *outcomes([b"6", b"7"]),
    ]
    outputs = list(pack(messages, MAX_MESSAGE_BYTES))
    metadata = [MessageMetadata.FromString(output.metadata) for output in outputs]
    assert [(one.compression, one.schema_version, bool(one.encryption_keys)) for one in metadata] == [
        (0, b"", False), (0, b"v2", False), (1, b"v2", False), (3, b"v2", False), (1, b"", False),
        (1, b"", True), (1, b"", True), (0, b"", False),
    ]  # fmt: skip
    assert [output.num_messages for output in outputs] == [1] * 7 + [2]
    assert [output.payload for output in outputs[5:7]] == [sealed.payload] * 2


def test_outputs_are_split_by_size() -> None:
    payloads = [bytes([n]) * (400 * 1024) for n in range(7)]
    outputs = list(pack(outcomes(payloads), MAX_MESSAGE_BYTES))
    assert bodies(outputs) == [payloads[0:2], payloads[2:4], payloads[4:6], payloads[6:7]]
    assert all(len(output.payload) <= OUTPUT_BATCH_BYTES for output in outputs)


def test_outputs_are_split_by_the_size_of_the_properties_too() -> None:
    head, payload = message(b"x", properties={"note": "n" * (400 * 1024)})
    assert [output.num_messages for output in pack([Messages([head], [payload], SOURCE)] * 5, MAX_MESSAGE_BYTES)] == [
        2, 2, 1,
    ]  # fmt: skip


def test_a_message_larger_than_an_output_is_one_by_itself() -> None:
    small, large = b"s", b"l" * (3 * MIB)
    outputs = list(pack(outcomes([small, large, large, small, small]), MAX_MESSAGE_BYTES))
    assert bodies(outputs) == [[small], [large], [large], [small, small]]


def test_outputs_are_split_at_a_small_limit_of_the_broker() -> None:
    limit = 10_000
    outputs = list(pack(outcomes([b"x" * 3000] * 9), limit))
    assert [output.num_messages for output in outputs] == [2, 2, 2, 2, 1]
    assert all(len(output.metadata) + len(output.payload) <= limit for output in outputs)


def test_outputs_are_split_by_count() -> None:
    small = Messages([SingleMessageMetadata(payload_size=1).SerializeToString()], [b"x"], SOURCE)
    outputs = list(pack([small] * (OUTPUT_BATCH_MESSAGES + 1), MAX_MESSAGE_BYTES))
    assert [output.num_messages for output in outputs] == [OUTPUT_BATCH_MESSAGES, 1]


# --- runs ---


def run(payloads: Sequence[bytes], *, binary: bool = False, sequence: int = 0, **fields: Any) -> AcceptedRun:
    """As they come out of one batch of plain messages, each of an aggregate of its own."""
    read: Sequence[Any] = read_submitted(
        [
            batch(
                [message(payload, f"key-{n}", BINARY if binary else {}) for n, payload in enumerate(payloads)], **fields
            )
        ],
        MAX_MESSAGE_BYTES,
    )
    (plain,) = read
    assert isinstance(plain, PlainBatch)
    return AcceptedRun(plain, range(4, 4 + len(payloads)), sequence)


def messages_in(outputs: Sequence[Output]) -> list[tuple[SingleMessageMetadata, bytes]]:
    return [one for output in outputs for one in opened(output)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_run_becomes_what_its_events_become(compression: int, binary: bool) -> None:
    payloads = [structured(event_id(str(n)), "d" * 30) for n in range(20)]
    accepted = run(payloads, binary=binary, sequence=99, compression=compression, schema_version=b"v1")
    (together,) = pack([accepted_messages(accepted)], MAX_MESSAGE_BYTES)
    apart = pack(map(accepted_messages, accepted.outcomes()), MAX_MESSAGE_BYTES)
    assert opened(together) == messages_in(list(apart))
    sent = MessageMetadata.FromString(together.metadata)
    assert (sent.compression, sent.schema_version, sent.num_messages_in_batch) == (compression, b"v1", 20)
    assert [(event.key, event.version, event.sequence) for event in read_events(delivered(together))] == [
        (f"key-{n}", 4 + n, 99 + n) for n in range(20)
    ]
    first, _ = opened(together)[0]
    assert {field.key: field.value for field in first.properties} == {
        "id": ID if binary else event_id("0"), "version": "4", "sequence": "99", "submission": "7:3:0:0",
    }  # fmt: skip
    assert len(first.properties) == 4, "none of them twice"


def test_runs_share_an_output_as_long_as_there_is_room() -> None:
    third = [structured(data="x" * 1000)] * 340
    accepted = [accepted_messages(run(third)) for _ in range(5)]
    outputs = list(pack(accepted, MAX_MESSAGE_BYTES))
    assert [output.num_messages for output in outputs] == [680, 680, 340]
    assert all(len(output.payload) <= OUTPUT_BATCH_BYTES for output in outputs)


def test_a_run_that_is_larger_than_an_output_is_split() -> None:
    payloads = [structured(data=f"{n}" + "x" * 1000) for n in range(1500)]
    accepted = run(payloads)
    outputs = list(pack([accepted_messages(accepted)], MAX_MESSAGE_BYTES))
    assert [body for _, body in messages_in(outputs)] == payloads
    assert len(outputs) == 2
    assert all(len(output.payload) <= OUTPUT_BATCH_BYTES for output in outputs)


def test_a_run_of_more_messages_than_an_output_takes_is_split() -> None:
    small = message(b"x", properties=BINARY)
    heads, payloads = [small[0]] * (OUTPUT_BATCH_MESSAGES + 1), [b"x"] * (OUTPUT_BATCH_MESSAGES + 1)
    outputs = list(pack([Messages(heads, payloads, SOURCE)], MAX_MESSAGE_BYTES))
    assert [output.num_messages for output in outputs] == [OUTPUT_BATCH_MESSAGES, 1]
