"""Bytes that nobody would write on purpose, unless he is hostile: what reads them ends, stays within its memory, and
raises nothing but what it says that it raises."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequencer.entries import ForeignWriter, StoredEvent, read_events
from sequencer.event import ATTRIBUTES, MAX_LIST_EVENTS, MAX_VERSION, BrokenContract, structured_envelope
from sequencer.owner import MAX_RECORDED_TRANSACTIONS, OwnerLogBroken, OwnerRecord, _read_record
from sequencer.pulsar import commands
from sequencer.pulsar.batches import Compression, compress, decompress, join_batch, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry, TxnId
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata
from sequencer.recovery import Checkpoint
from sequencer.status import Ownership, PartitionState, Peer, Record
from sequencer.status_command import _owner_text, _since_text
from sequencer.status_look import _reasons
from sequencer.verify.read import accepted_records, rejected_records, submitted_records
from state.errors import IndexFailure
from state.index import VersionIndex
from state.peek import peek_index
from tests.hostile import COUNTS, IDS, MESSAGES, SCALARS, SIZES, broken, deep, entries, json_bytes, plant
from tests.submitted import batch, sent_metadata, stored

EXAMPLES = 100
LIMIT_BYTES = 1 << 20
SLACK_BYTES = 1 << 20
COMPRESSED = st.sampled_from([kind for kind in Compression if kind is not Compression.NONE])

fuzzed = settings(max_examples=EXAMPLES, deadline=None, derandomize=True)


@contextmanager
def holding_at_most(limit_bytes: int) -> Iterator[None]:
    """Fails where Python allocates more at any moment within."""
    tracemalloc.start()
    try:
        yield
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= limit_bytes


# --- decompression ---

CONTENTS = st.binary(max_size=300) | st.builds(
    lambda part, times: part * times, st.binary(min_size=1, max_size=30), st.integers(1, 3000)
)


@fuzzed
@given(COMPRESSED, CONTENTS, st.data())
def test_a_compressed_stream_that_was_tampered_with(kind: Compression, content: bytes, data: st.DataObject) -> None:
    stream = data.draw(broken(st.just(compress(kind, content))))
    stated = data.draw(st.just(len(content)) | st.just(len(content) + 1) | SIZES)
    opened = None
    with holding_at_most(2 * LIMIT_BYTES + SLACK_BYTES), suppress(CorruptBatch):
        opened = decompress(kind, stream, stated, LIMIT_BYTES)
    assert opened is None or len(opened) == stated <= LIMIT_BYTES


@fuzzed
@given(COMPRESSED, COMPRESSED, CONTENTS)
def test_a_stream_of_another_kind(kind: Compression, other: Compression, content: bytes) -> None:
    try:
        opened = decompress(other, compress(kind, content), len(content), LIMIT_BYTES)
    except CorruptBatch:
        return
    assert len(opened) == len(content)


# --- batches ---


@fuzzed
@given(broken(st.lists(MESSAGES, max_size=6).map(join_batch)), COUNTS)
def test_a_batch_that_was_tampered_with(data: bytes, count: int) -> None:
    found = 0
    with holding_at_most(SLACK_BYTES), suppress(CorruptBatch):
        for metadata, head, payload in split_batch(data, count):
            found += 1
            assert metadata.payload_size == len(payload)
            assert SingleMessageMetadata.FromString(head) == metadata
    assert found <= len(data) // 4


# --- the JSON envelope ---

MEMBERS = st.fixed_dictionaries(
    {"id": IDS | SCALARS},
    optional={"data": SCALARS, **dict.fromkeys(ATTRIBUTES, SCALARS)},
)
OBJECTS = st.fixed_dictionaries(
    {"id": IDS | SCALARS},
    optional={
        "version": SCALARS,
        "data": SCALARS,
        "events": st.lists(MEMBERS, max_size=4) | SCALARS | st.lists(SCALARS, max_size=3),
        "x": SCALARS,
    },
)


def check_envelope(payload: bytes) -> None:
    try:
        envelope = structured_envelope(payload)
    except BrokenContract as refused:
        (refused.detail + refused.id_text).encode()
        return
    assert len(envelope.event_id) == 16
    assert envelope.expected is None or -1 <= envelope.expected <= MAX_VERSION
    if envelope.members is not None:
        assert 1 <= len(envelope.members) <= MAX_LIST_EVENTS
    for member in envelope.members or ():
        assert json.loads(member.payload)["id"] == member.id_text
        for name, value in member.attributes.items():
            assert name in ATTRIBUTES
            SingleMessageMetadata().properties.add(key=name, value=value)


@fuzzed
@given(broken(OBJECTS.map(json_bytes), most=2))
def test_an_envelope_that_was_tampered_with(payload: bytes) -> None:
    check_envelope(payload)


@fuzzed
@given(st.sampled_from(["id", "version", "data", "events", "x"]), deep, st.booleans())
def test_nesting_without_end(field: str, nested: bytes, in_a_list: bool) -> None:
    opening = b'{"id":"0f8fad5b-d9cb-469f-a165-70867728950e",' + (b'"events":[{' if in_a_list else b"")
    check_envelope(opening + json.dumps(field).encode() + b":" + nested)


@pytest.mark.parametrize("field", ["version", "id", "data", "x"])
@pytest.mark.parametrize("number", [b"9" * 2_000_000, b"1e" + b"9" * 2_000_000, b"0." + b"1" * 2_000_000])
@pytest.mark.timeout(10)
def test_a_number_of_two_million_digits_takes_no_time(field: str, number: bytes) -> None:
    check_envelope(b'{"id":"0f8fad5b-d9cb-469f-a165-70867728950e","data":1,"%b":%b}' % (field.encode(), number))


# --- owner records ---

NUMBERS = st.integers(-2, 20) | st.sampled_from([2**31, 2**63, 2**64 - 1, 2**64, 10**30]) | SCALARS
RECORDS = st.fixed_dictionaries(
    {
        "epoch": NUMBERS,
        "host": st.text(max_size=5) | SCALARS,
        "pid": st.integers(1, 9) | NUMBERS,
        "since_ms": st.integers(0, 2**41) | NUMBERS,
        "transactions": st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3) | SCALARS,
    }
)
GOOD_RECORD = OwnerRecord(4, "h", 1, 2, [(0, 7)])


def record_entry(payload: bytes, in_a_batch: bool) -> Entry:
    if in_a_batch:
        return batch([(SingleMessageMetadata(payload_size=len(payload)).SerializeToString(), payload)])
    return stored(sent_metadata(), payload)


def check_record(entry: Entry) -> None:
    """It is refused, or every part of it can be used for what it is there for."""
    try:
        record = _read_record("sequencer_owners-partition-0", entry)
    except OwnerLogBroken:
        return
    assert len(record.transactions) <= MAX_RECORDED_TRANSACTIONS
    for txn in record.transactions:
        commands.end_txn(TxnId(*txn), False).SerializePartialToString()
        commands.connect_coordinator(txn[0]).SerializePartialToString()
    told = Record(record.host, record.pid, record.epoch, record.since_ms)
    owner = Ownership(Peer("", "", "pulsar-sequencer"), record.epoch, 0)
    state = PartitionState(number=0, now_ms=1, ownership=owner, record=told)
    assert _owner_text(state).encode()
    assert _since_text(state)


@fuzzed
@given(broken(RECORDS.map(json_bytes), most=1), st.booleans())
def test_an_owner_record_that_was_tampered_with(payload: bytes, in_a_batch: bool) -> None:
    check_record(record_entry(payload, in_a_batch))


@fuzzed
@given(entries())
def test_anything_on_the_owner_topic(entry: Entry) -> None:
    check_record(entry)


@pytest.mark.parametrize(
    "transactions", [[[-1, 0]], [[0, 2**64]], [[2**64, 0]], [[0, 1]] * (MAX_RECORDED_TRANSACTIONS + 1)]
)
def test_transactions_that_cannot_be_ended_are_no_record(transactions: list[Any]) -> None:
    record = {"epoch": 4, "host": "h", "pid": 1, "since_ms": 2, "transactions": transactions}
    with pytest.raises(OwnerLogBroken):
        _read_record("t", stored(sent_metadata(), json.dumps(record).encode()))


def test_a_batch_of_many_records_is_not_held() -> None:
    entry = stored(sent_metadata(num_messages_in_batch=20_000), bytes(4 * 20_000))
    with holding_at_most(SLACK_BYTES), pytest.raises(OwnerLogBroken):
        _read_record("t", entry)


# --- events, and what the verifier and `status` read ---


@fuzzed
@given(entries())
def test_anything_on_events(entry: Entry) -> None:
    read: list[StoredEvent] = []
    with suppress(ForeignWriter):
        read.extend(read_events(entry))
    for event in read:
        check_stored(event)


def check_stored(event: StoredEvent) -> None:
    """The index can take it."""
    event.key.encode()
    assert len(event.event_id) == 16
    assert 0 <= event.version < 2**63
    assert 0 <= event.sequence < 2**63


@fuzzed
@given(entries())
def test_anything_is_a_record_to_the_verifier(entry: Entry) -> None:
    for submitted in submitted_records(entry):
        assert submitted.event_id is None or len(submitted.event_id) == 16
    for accepted in accepted_records(entry):
        assert max(accepted.version, accepted.sequence) < 10**19
        (accepted.submission + (accepted.forwarded_from or "")).encode()
    for rejected in rejected_records(entry):
        (rejected.reason + rejected.submission + (rejected.forwarded_from or "")).encode()


@fuzzed
@given(entries())
def test_anything_on_rejected_events_can_be_counted(entry: Entry) -> None:
    json.dumps(list(_reasons(entry)))


# --- the index, for whoever only looks ---


@fuzzed
@given(st.binary(max_size=30) | st.binary(min_size=24, max_size=24))
def test_any_bytes_are_a_checkpoint_or_none(stored_bytes: bytes) -> None:
    checkpoint = Checkpoint.from_bytes(stored_bytes)
    assert checkpoint is None or checkpoint.to_bytes() == stored_bytes


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["default", "tails"]),
            st.sampled_from([b"format", b"state", b"a", b""]) | st.binary(max_size=8),
            st.binary(max_size=40),
        ),
        min_size=1,
        max_size=4,
    )
)
@example([("tails", b"a", b"\x80")])
@example([("tails", b"a", bytes(7) + b"\x80")])
@example([("tails", b"\xff", bytes(8))])
def test_a_look_at_foreign_rows_gives_values_or_an_index_failure(planted: list[tuple[str, bytes, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with VersionIndex.open(directory, identity="i") as index:
            index.apply({"a": 0}, [(bytes(16), "a", 0, 0)], accepted_at_ms=0, checkpoint=b"1")
        plant(directory, planted)
        with suppress(IndexFailure), peek_index(directory, identity="i") as found:
            assert found is not None
            for key, version in found.tails:
                key.encode()
                assert 0 <= version < 2**63
