"""Whatever a publisher writes ends as exactly one outcome, within the broker's limit, which can be read back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequencer.decide import Overlay
from sequencer.entries import read_entry, read_events, read_submitted
from sequencer.event import (
    MAX_VERSION,
    Accepted,
    BrokenContract,
    Flawed,
    Reason,
    Rejected,
    Source,
    Submission,
    accepted_properties,
    rejected_properties,
    structured_envelope,
    uuid_bytes,
)
from sequencer.packing import Output
from sequencer.pulsar.batches import Compression, decompress, split_batch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.judged import each, one_by_one, outputs
from tests.submitted import (
    POSITION,
    batch,
    delivered,
    message,
    properties_of,
    sent_metadata,
    single,
    stored,
    structured,
)

LIMIT = 20_000
INT64 = st.integers(0, 2**63 - 1)
UUIDS = st.uuids().map(str)
COMPRESSIONS = st.sampled_from(list(Compression))


class NoIndex:
    """An index that holds nothing."""

    def tails(self, keys: Any) -> list[int]:
        return [-1] * len(keys)

    def accepted(self, asked: Any) -> list[tuple[int, int] | None]:
        return [None] * len(asked)


# --- the contract's fields ---


@given(UUIDS, INT64, INT64, INT64, INT64, st.integers(-1, 2**31 - 1), st.integers(-1, 2**31 - 1))
@example(str(uuid.UUID(int=2**128 - 1)), 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**31 - 1, 2**31 - 1)
def test_accepted_properties_are_what_protobuf_would_write(
    id_text: str, version: int, sequence: int, ledger: int, entry: int, partition: int, index: int
) -> None:
    submission = f"{ledger}:{entry}:{partition}:{index}"
    by_the_library = SingleMessageMetadata()
    for name, value in {
        "id": id_text, "version": str(version), "sequence": str(sequence), "submission": submission,
    }.items():  # fmt: skip
        by_the_library.properties.add(key=name, value=value)
    serialized = accepted_properties(id_text, version, sequence, submission)
    assert serialized == by_the_library.SerializePartialToString()


@given(
    st.sampled_from(Reason), st.text(), st.none() | st.integers(-1, MAX_VERSION),
    st.none() | st.integers(-1, 2**63 - 1), st.none() | INT64, UUIDS | st.just(""),
)  # fmt: skip
def test_rejected_properties_parse_to_what_is_known(
    reason: Reason, detail: str, expected: int | None, current: int | None, accepted: int | None, id_text: str
) -> None:
    flawed = Flawed(reason, detail, id_text, b"", None, b"", Source("7:3:0:", 0, b"", None), 2)
    found = properties_of(rejected_properties(Rejected(flawed, reason, detail, expected, current, accepted), "7:3:0:2"))
    assert detail.startswith(found.pop("detail", ""))
    assert found == {name: str(value) for name, value in {
        "id": id_text or None, "reason": reason, "submission": "7:3:0:2", "expected_version": expected,
        "current_version": current, "accepted_version": accepted,
    }.items() if value is not None}  # fmt: skip


@given(UUIDS)
def test_the_usual_spelling_of_any_uuid_is_its_id(text: str) -> None:
    assert uuid_bytes(text) == uuid_bytes(text.upper()) == uuid.UUID(text).bytes


@given(st.text() | st.text(alphabet="0123456789abcdefABCDEF- {}", min_size=30, max_size=40))
def test_no_other_text_is_an_id(text: str) -> None:
    try:
        found = uuid_bytes(text)
    except BrokenContract:
        return
    assert str(uuid.UUID(bytes=found)) == text.lower()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
OTHERS = st.dictionaries(st.text().filter(lambda name: name not in ("id", "version", "data")), JSON, max_size=3)


@given(UUIDS, st.none() | st.integers(-1, MAX_VERSION), JSON, OTHERS, st.booleans(), st.sampled_from([None, 2]))
def test_any_data_is_taken(
    id_text: str, expected: int | None, data: Any, others: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    payload = json.dumps(
        {**others, "version": expected, "data": data, "id": id_text}, ensure_ascii=ascii_only, indent=indent
    )
    envelope = structured_envelope(payload.encode("utf-8"))
    assert (envelope.id_text, envelope.expected) == (id_text, expected)


@given(st.binary() | st.binary().map(lambda noise: structured(data="HERE").replace(b"HERE", noise)))
def test_what_is_taken_is_json(payload: bytes) -> None:
    try:
        envelope = structured_envelope(payload)
    except BrokenContract:
        return
    assert json.loads(payload)["id"] == envelope.id_text


# --- anything that a publisher can write ---

NAMES = st.sampled_from(["id", "version", "sequence", "submission", "reason", "detail", "x"])
PROPERTIES = st.lists(
    st.tuples(NAMES, st.sampled_from(["1", "", "\N{DIGIT ONE}", "-1"]) | UUIDS | st.text()), max_size=4
)
KEYS = st.sampled_from(["a", "b", "c", "", None, "k" * 1030, "\U0001f600"])
PAYLOADS = (
    st.builds(structured, UUIDS, JSON, version=st.none() | st.integers(-2, 3))
    | st.binary(max_size=60)
    | st.integers(0, LIMIT + 100).map(lambda size: structured(data="x" * size))
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "event_time": st.integers(0, 2**64 - 1), "ordering_key": st.binary(max_size=9), "null_value": st.booleans(),
        "null_partition_key": st.booleans(), "partition_key_b64_encoded": st.booleans(),
    },
)  # fmt: skip
HIDDEN = st.fixed_dictionaries({}, optional={"compacted_out": st.booleans(), "sequence_id": st.integers(0, 2**64 - 1)})
MESSAGES = st.builds(
    lambda payload, key, properties, fields, hidden: message(payload, key, properties, **fields, **hidden),
    PAYLOADS, KEYS, PROPERTIES, FIELDS, HIDDEN,
)  # fmt: skip
HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        "uncompressed_size": st.integers(0, 2**32 - 1), "num_chunks_from_msg": st.integers(-1, 3),
        "schema_version": st.binary(max_size=100), "num_messages_in_batch": st.integers(-3, 20),
    },
)  # fmt: skip


def flipped(entry: Entry, flips: list[tuple[int, int]]) -> Entry:
    """With some bytes of its payload, and of its metadata as long as that can be parsed at all, replaced."""
    payload, metadata = bytearray(entry.payload), bytearray(entry.metadata.SerializePartialToString())
    for target, (position, value) in zip([payload, metadata] * len(flips), flips, strict=False):
        if target:
            target[position % len(target)] = value
    try:
        return entry._replace(payload=bytes(payload), metadata=MessageMetadata.FromString(bytes(metadata)))
    except Exception as broken:
        return entry._replace(payload=bytes(payload), metadata=MessageMetadata(), damage=str(broken)[:80] or "damaged")


def with_fields(entry: Entry, fields: dict[str, Any]) -> Entry:
    for name, value in fields.items():
        setattr(entry.metadata, name, value)
    return entry


def sealed(entry: Entry) -> Entry:
    entry.metadata.encryption_keys.add(key="ours", value=b"wrapped key")
    return entry


BATCHES = st.builds(
    lambda messages, kind: batch(messages, compression=kind), st.lists(MESSAGES, max_size=5), COMPRESSIONS
)
SINGLES = st.builds(
    lambda payload, key, properties, fields, kind: single(payload, key, properties, compression=kind, **fields),
    PAYLOADS, KEYS, PROPERTIES, FIELDS, COMPRESSIONS,
)  # fmt: skip
WELL_FORMED = BATCHES | SINGLES
BYTE = st.integers(0, 255)
ENTRIES = (
    WELL_FORMED
    | WELL_FORMED.map(sealed)
    | st.builds(with_fields, WELL_FORMED, HOSTILE)
    | st.builds(flipped, WELL_FORMED, st.lists(st.tuples(st.integers(0, LIMIT), BYTE), min_size=1, max_size=4))
    | st.builds(lambda payload, count: stored(sent_metadata(num_messages_in_batch=count), payload), st.binary(), BYTE)
)


def at(position: int, entry: Entry) -> Entry:
    return entry._replace(message_id=POSITION._replace(entry=position))


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES, max_size=4), st.booleans())
def test_whatever_is_submitted_has_one_outcome_that_can_be_stored_and_read(
    anything: list[Entry], by_columns: bool
) -> None:
    entries = [at(position, entry) for position, entry in enumerate(anything)]
    read: Sequence[Any] = [read for entry in entries for read in read_entry(entry, LIMIT)]
    submitted = read_submitted(entries, LIMIT) if by_columns else read
    overlay = Overlay(NoIndex(), partition=0, partitions=1, next_sequence=0)
    outcomes = overlay.decide(submitted).outcomes
    accepted = [outcome for outcome in one_by_one(outcomes) if isinstance(outcome, Accepted)]
    events, rejections, _ = outputs(outcomes, LIMIT)
    for output in (*events, *rejections):
        assert len(output.metadata) + len(output.payload) <= LIMIT - 256, "the producer adds its own fields"

    told = sorted(
        place(properties["submission"]) for output in (*events, *rejections) for properties in told_by(output)
    )
    assert told == sorted(expected_places(entries, list(each(submitted)))), "one outcome each"

    stored_events = [event for n, output in enumerate(events) for event in read_events(at_output(n, output))]
    assert [(event.key, event.version, event.sequence) for event in stored_events] == [
        (one.submission.key, one.version, one.sequence) for one in accepted
    ]


def place(submission: str) -> tuple[int, int]:
    ledger, entry, partition, index = map(int, submission.split(":"))
    assert (ledger, partition) == (POSITION.ledger, POSITION.partition)
    return entry, index


def expected_places(entries: list[Entry], submitted: list[Submission | Flawed]) -> list[tuple[int, int]]:
    """Of an entry that was opened, every message by its index; of any other, -1."""
    opened = {one.source.position: 0 for one in submitted if one.batch_index >= 0}
    places = []
    for entry in entries:
        position = f"{POSITION.ledger}:{entry.message_id.entry}:{POSITION.partition}:"
        count = entry.metadata.num_messages_in_batch if position in opened else 0
        places += [(entry.message_id.entry, index) for index in (range(count) if count else [-1])]
    return places


def told_by(output: Output) -> list[dict[str, str]]:
    """The properties of every message in an output, which any consumer must be able to parse."""
    metadata = MessageMetadata.FromString(output.metadata)
    if not metadata.HasField("num_messages_in_batch"):
        return [{field.key: field.value for field in metadata.properties}]
    payload = decompress(metadata.compression, output.payload, metadata.uncompressed_size, 2**20)
    messages = list(split_batch(payload, output.num_messages))
    assert all(single.IsInitialized() and not single.compacted_out for single, _, _ in messages)
    return [{field.key: field.value for field in single.properties} for single, _, _ in messages]


def at_output(n: int, output: Output) -> Entry:
    return delivered(output, MessageId(20, n, 0))
