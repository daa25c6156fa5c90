"""Which batches are read by columns, and which are left to be read message by message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

import pytest

from sequencer.decide import Overlay
from sequencer.entries import SMALL_BATCH_BYTES, read_entry, read_submitted
from sequencer.event import (
    MAX_KEY_BYTES,
    MAX_VERSION,
    OUTCOME_BYTES,
    OUTCOME_PROPERTIES,
    Accepted,
    Flawed,
    Forwarded,
    Reason,
    Rejected,
    Source,
    Submission,
)
from sequencer.packing import accepted_messages
from sequencer.plain import AcceptedRun, PlainBatch
from sequencer.pulsar.batches import Compression
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata
from tests.judged import each, ids_of, read_all, rejected_message
from tests.submitted import (
    BINARY,
    ID,
    KEY,
    MAX_MESSAGE_BYTES,
    Message,
    Properties,
    batch,
    encrypted,
    event_id,
    listed,
    message,
    properties_of,
    raw_property,
    single,
    structured,
)

ID_BYTES = bytes.fromhex(ID.replace("-", ""))
GOOD = structured(event_id("good"), version=4)
REPLY_TO = "non-persistent://a/b/c"
DEEP = b"[" * 5000 + b"]" * 5000
"""Deeper than the decoder goes."""


def read(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> PlainBatch:
    read_all(entry, limit)
    (plain,) = read_submitted([entry], limit)
    assert isinstance(plain, PlainBatch)
    return plain


# --- what is read by columns ---


def test_the_columns_of_a_structured_batch() -> None:
    payloads = [structured(ID.upper(), "é", version=-1), GOOD, structured(version=None), structured()]
    keys = ["a", "\N{SNOWMAN}", "k" * 256, "a"]
    messages = [message(payload, key) for payload, key in zip(payloads, keys, strict=True)]
    plain = read(batch(messages, schema_version=b"v1"))
    assert plain.source == Source("7:3:0:", 0, b"v1", None)
    assert list(plain.batch_indexes) == [0, 1, 2, 3]
    assert (plain.keys, plain.payloads) == (keys, payloads)
    assert plain.id_texts == [ID.upper(), event_id("good"), ID, ID]
    assert [plain.event_ids[row] for row in (0, 2, 3)] == [ID_BYTES] * 3
    assert plain.expected == [-1, 4, None, None]
    assert plain.heads == plain.bare_heads == [head for head, _ in messages]


def test_the_columns_of_a_binary_batch() -> None:
    versions = [None, -1, 0, MAX_VERSION]
    properties = [{"id": ID} | ({} if version is None else {"version": str(version)}) for version in versions]
    messages = [message(b"\0\xff", properties=one, event_time=7, sequence_id=9) for one in properties]
    plain = read(batch(messages))
    assert (plain.id_texts, plain.event_ids, plain.expected) == ([ID] * 4, (ID_BYTES,) * 4, versions)
    assert plain.heads == [head for head, _ in messages]
    bare, _ = message(b"\0\xff", event_time=7, sequence_id=9)
    assert plain.bare_heads == [bare] * 4


def test_the_order_of_the_properties_is_the_applications() -> None:
    properties = [{"id": ID, "version": "3"}, {"version": "-1", "id": event_id("1")}, {"id": event_id("2")}]
    plain = read(batch([message(b"x", properties=one) for one in properties]))
    assert (plain.id_texts, plain.expected) == ([ID, event_id("1"), event_id("2")], [3, -1, None])
    assert plain.bare_heads == [message(b"x")[0]] * 3


def test_some_rows_of_a_batch() -> None:
    for mode in ({}, BINARY):
        plain = read(batch([message(structured(event_id(f"{n}"), n), f"key {n}", mode) for n in range(5)]))
        some = plain.only([False, True, False, True, False])
        assert list(some.batch_indexes) == [1, 3]
        assert [some.submission(row) for row in (0, 1)] == [plain.submission(row) for row in (1, 3)]
        assert [plain.heads[3], plain.bare_heads[3]] == [some.heads[1], some.bare_heads[1]]


def test_a_run_tells_what_each_of_its_messages_became() -> None:
    plain = read(batch([message(structured(event_id(f"{n}")), f"key {n}") for n in range(3)]))
    assert AcceptedRun(plain, [7, 0, 4], 90).outcomes() == [
        Accepted(plain.submission(row), version, 90 + row) for row, version in enumerate((7, 0, 4))
    ]


PLAIN_FIELDS: dict[str, Any] = {
    "event_time": 1_700_000_000_000, "sequence_id": 2**64 - 1, "ordering_key": b"\xff",
    "partition_key_b64_encoded": False,
}  # fmt: skip


@pytest.mark.parametrize("properties", [{}, {"id": ID}, BINARY], ids=["structured", "binary", "binary-version"])
@pytest.mark.parametrize("compression", list(Compression))
def test_what_the_official_clients_send_is_read_by_columns(compression: int, properties: Properties) -> None:
    """They add a sequence id to every message of a batch, and an event time, or an ordering key, where one is set."""
    fields = list(PLAIN_FIELDS.items())
    messages = [message(GOOD, KEY, properties, **dict(fields[:n])) for n in range(len(fields) + 1)]
    plain = read(batch(messages, compression=compression, schema_version=b"\0" * 8))
    assert len(plain.keys) == len(messages)


ATTRIBUTES = {"type": "OrderPlaced", "correlationid": "é" * 40, "paid": "id", "VERSION": "3"}


@pytest.mark.parametrize("mode", [{}, {"id": ID}, BINARY], ids=["structured", "binary", "binary-version"])
def test_the_applications_own_properties_travel_on(mode: dict[str, str]) -> None:
    own = [[*ATTRIBUTES.items()], [], [("type", "x"), ("type", "y")], [("mine", "x" * 119)], [("", "")]]
    plain = read(batch([message(GOOD, properties=[*mode.items(), *each]) for each in own]))
    bare = [SingleMessageMetadata.FromString(head).properties for head in plain.bare_heads]
    assert [[(one.key, one.value) for one in found] for found in bare] == own


@pytest.mark.parametrize("name", sorted(OUTCOME_PROPERTIES | {"reply_to", "forwarded_from"}))
@pytest.mark.parametrize("mode", [{}, BINARY], ids=["structured", "binary"])
def test_a_property_that_means_something_is_read_one_by_one(name: str, mode: dict[str, str]) -> None:
    for own in ([(name, "3")], [*ATTRIBUTES.items(), (name, "3")], [(name, "3"), *ATTRIBUTES.items()]):
        refused(batch([message(GOOD, properties=mode), message(GOOD, properties=[*mode.items(), *own])]))


@pytest.mark.parametrize("properties", [{}, BINARY], ids=["structured", "binary"])
def test_fields_that_nobody_knows_stay(properties: Properties) -> None:
    head, payload = message(GOOD, properties=properties)
    plain = read(batch([(head + b"\x78\x01", payload)]))
    assert plain.bare_heads[0].endswith(b"\x78\x01")


def test_what_the_batch_says_for_its_messages() -> None:
    entry = batch([message(GOOD)])
    entry.metadata.properties.add(key="reply_to", value=REPLY_TO)
    assert read(entry).submission(0).reply_to == REPLY_TO


# --- what is not ---


def unlike(size: int = len(GOOD), **fields: Any) -> Message:
    """A good message, but for some of its fields."""
    return SingleMessageMetadata(partition_key=KEY, payload_size=size, **fields).SerializeToString(), GOOD


def with_raw(*raw: bytes, mode: Properties = ()) -> Message:
    head, payload = message(GOOD, properties=mode)
    return head + b"".join(raw), payload


def binary(payload: bytes = b"x", **properties: str) -> Message:
    return message(payload, properties=properties)


def raw_binary(*properties: bytes) -> Message:
    head, payload = message(GOOD)
    return b"".join(properties) + head, payload


def text(payload: bytes) -> Message:
    return message(b'{"id":"%b",%b}' % (ID.encode(), payload))


ID_PROPERTY, VERSION = raw_property(b"id", ID.encode()), raw_property(b"version", b"3")
ODD: dict[str, Message] = {
    # its key
    "no key": message(GOOD, None),
    "empty key": message(GOOD, ""),
    "empty key at last": with_raw(b"\x12\x00"),
    "key too long": message(GOOD, "k" * (MAX_KEY_BYTES + 1)),
    "key that may be too long": message(GOOD, "k" * (MAX_KEY_BYTES // 4 + 1)),
    "key not UTF-8": with_raw(b"\x12\x02\xff\xfe"),
    # its flags, also where they are not set
    "null key": unlike(null_partition_key=True),
    "null value": unlike(null_value=True),
    "compacted out": unlike(compacted_out=True),
    "not compacted out": unlike(compacted_out=False),
    "not null": unlike(null_value=False, null_partition_key=False),
    # its sizes
    "no payload": message(b""),
    "no payload, binary": message(b"", properties=BINARY),
    "no size": (SingleMessageMetadata(partition_key=KEY).SerializePartialToString(), b""),
    "negative size": unlike(-1),
    "larger than the batch": unlike(len(GOOD) + 1),
    "smaller than its payload": unlike(len(GOOD) - 1),
    # its properties
    "a property after the others": with_raw(raw_property(b"mine", b"1")),
    "one more property at the end, binary": with_raw(raw_property(b"mine", b"1"), mode=BINARY),
    "a property without anything": with_raw(b"\x0a\x00"),
    "half a property": with_raw(b"\x0a\x06\x0a\x04half"),
    "one property before, binary": binary(a="1", id=ID),
    "a property and null": message(GOOD, properties={"mine": "1"}, null_value=True),
    "a property of 128 bytes": message(GOOD, properties={"mine": "x" * 120}),
    "a property that is its name only": raw_binary(b"\x0a\x06\x0a\x04mine"),
    "a property with its value first": raw_binary(b"\x0a\x09\x12\x011\x0a\x04mine"),
    "a property that says more": raw_binary(b"\x0a\x0b\x0a\x04mine\x12\x011\x18\x01"),
    "a property that is longer than all": (b"\x0a\x7f\x0a\x04mine\x12\x73" + b"x" * 15, GOOD),
    "nothing but a property": (raw_property(b"mine", b"1"), GOOD),
    "no metadata": (b"", GOOD),
    "null, and a property after it": with_raw(b"\x48\x01", raw_property(b"mine", b"1")),
    "the id twice": with_raw(ID_PROPERTY, mode=BINARY),
    "the version before the id and after it": raw_binary(VERSION, ID_PROPERTY, VERSION),
    "the version first, and of another size": raw_binary(b"\x0a\x0e\x0a\x07version\x12\x01101", ID_PROPERTY),
    "the version first, and below -1": binary(version="-2", id=ID),
    "the version without an id": binary(version="3"),
    "the version twice": raw_binary(ID_PROPERTY, raw_property(b"version", b"3"), raw_property(b"version", b"4")),
    "an id of no text": raw_binary(raw_property(b"id", b"\xff" * 36)),
    "an id of another spelling": binary(id=ID.replace("-", "0")),
    "dashes elsewhere": binary(id=ID.replace("-", "0", 1)[:-1] + "-"),
    "nothing but dashes": binary(id="-" * 36),
    "an id of 35": binary(id=ID[:-1]),
    "an id of 37": binary(id=ID + "0"),
    "version no number": binary(id=ID, version="three"),
    "version empty": binary(id=ID, version=""),
    "version below -1": binary(id=ID, version="-2"),
    "version above 2**53": binary(id=ID, version=str(MAX_VERSION + 1)),
    "version of 17 digits": binary(id=ID, version="0" * 16 + "1"),
    "version with a sign": binary(id=ID, version="+1"),
    "version of another script": binary(id=ID, version="\N{ARABIC-INDIC DIGIT THREE}"),
    # after the version "1" a field of the property that nobody knows, which looks like two digits more
    "digits that are none of the version's": raw_binary(ID_PROPERTY, b"\x0a\x0e\x0a\x07version\x12\x01101"),
    "a property longer than its version": raw_binary(ID_PROPERTY, b"\x0a\x0e\x0a\x07version\x12\x011\x18\x01"),
    "a property shorter than its version": raw_binary(ID_PROPERTY, b"\x0a\x0c\x0a\x07version\x12\x02101"),
    # its payload
    "a list": message(listed("1", "2")),
    "an empty list": text(b'"data":1,"events":[]'),
    "both": text(b'"data":1,"events":[{"id":"%b","data":1}]' % ID.encode()),
    "neither": text(b'"x":1'),
    "no JSON": message(b"x"),
    "not an object": message(b"[]"),
    "not UTF-8": text(b'"data":"\xff"'),
    "nested too deeply": text(b'"data":' + DEEP),
    "nested too deeply elsewhere": text(b'"x":' + DEEP + b',"data":1'),
    "JSON and more": message(GOOD + b"x"),
    "no id": message(b'{"data":1}'),
    "id of another type": message(structured(7)),
    "no UUID": message(structured(ID[:-1])),
    "dashes elsewhere in JSON": message(structured(ID.replace("-", "0", 1)[:-1] + "-")),
    "no UUID, in another script": message(structured("\N{ARABIC-INDIC DIGIT THREE}" + ID[1:])),
    "version too small": message(structured(version=-2)),
    "version too large": message(structured(version=MAX_VERSION + 1)),
    "version of huge size": message(structured(version=10**40)),
    "version a fraction": message(structured(version=1.5)),
    "version a truth": message(structured(version=True)),
    "version a text": message(structured(version="1")),
    "a bad version before a good one": text(b'"data":1,"version":"1","version":1'),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("mode", [{}, BINARY], ids=["structured", "binary"])
@pytest.mark.parametrize("place", [0, 1])
def test_one_odd_message_leaves_all_of_its_batch_to_be_read_one_by_one(name: str, mode: Properties, place: int) -> None:
    messages = [message(GOOD, properties=mode)] * 2
    assert isinstance(read_submitted([batch(messages)], MAX_MESSAGE_BYTES)[0], PlainBatch)
    messages[place] = ODD[name]
    refused(batch(messages))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_message_by_itself_is_not_read_by_columns(name: str) -> None:
    refused(batch([ODD[name]]))


def refused(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> None:
    found = read_submitted([entry], limit)
    assert all(type(one) is not PlainBatch for one in found)
    assert list(found) == read_all(entry, limit)


def test_both_modes_in_one_batch_are_not_read_by_columns() -> None:
    refused(batch([message(GOOD), message(GOOD, properties=BINARY)]))
    refused(batch([message(GOOD, properties=BINARY), message(GOOD)]))


def changed(change: Callable[[bytes], bytes]) -> Entry:
    entry = batch([message(GOOD)] * 2)
    return entry._replace(payload=change(entry.payload))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(batch([]), id="nothing in it"),
        pytest.param(batch([], count=1), id="less than it says"),
        pytest.param(batch([message(GOOD)] * 2, count=1), id="more than it says"),
        pytest.param(batch([message(GOOD)] * 2, count=3), id="fewer than it says"),
        pytest.param(batch([message(GOOD)], count=0), id="count 0"),
        pytest.param(batch([message(GOOD)], count=-1), id="count negative"),
        pytest.param(batch([message(GOOD)], count=10_001), id="count too large"),
        pytest.param(batch([message(GOOD)], compression=1, uncompressed_size=3), id="uncompressed otherwise"),
        pytest.param(batch([message(GOOD)], compression=1, uncompressed_size=2**32 - 1), id="uncompressed too large"),
        pytest.param(batch([message(GOOD)], num_chunks_from_msg=2), id="a chunk"),
        pytest.param(batch([message(GOOD)], schema_version=b"v" * 65), id="schema version too long"),
        pytest.param(batch([message(GOOD)])._replace(damage="checksum mismatch"), id="damaged"),
        pytest.param(encrypted(batch([message(GOOD)])), id="encrypted"),
        pytest.param(changed(lambda data: data[:-1]), id="cut off in the payload"),
        pytest.param(changed(lambda data: data[: len(data) // 2 + 6]), id="cut off in the metadata"),
        pytest.param(changed(lambda data: data[: len(data) // 2 + 2]), id="cut off in the size"),
        pytest.param(changed(lambda data: data[:3]), id="cut off at once"),
        pytest.param(changed(lambda data: data + b"\0"), id="one byte more"),
        pytest.param(changed(lambda data: b"\xff" * len(data)), id="garbage"),
        pytest.param(changed(lambda data: b"\0\0\0\0" + data[4:]), id="metadata of no size"),
        pytest.param(changed(lambda data: data[:4] + b"\xff\xff" + data[6:]), id="metadata that cannot be parsed"),
    ],
)
def test_an_entry_that_is_not_read_by_columns(entry: Entry) -> None:
    refused(entry)


def test_a_batch_that_might_hold_too_large_a_message_is_read_one_by_one() -> None:
    entry = batch([message(GOOD)] * 2)
    room = len(entry.payload) + OUTCOME_BYTES
    read(entry, room)
    refused(entry, room - 1)


# --- small batches in a row ---


def small(*batches: Sequence[Message], **fields: Any) -> list[Entry]:
    """Batches, one entry after the other."""
    return [batch(one, **fields)._replace(message_id=MessageId(7, n, 0)) for n, one in enumerate(batches, 3)]


def row_by_row(entries: Sequence[Entry], limit: int = MAX_MESSAGE_BYTES) -> list[Submission | Flawed]:
    return [one for entry in entries for one in read_entry(entry, limit)]


def sizes(entries: Sequence[Entry], limit: int = MAX_MESSAGE_BYTES) -> list[int]:
    """How many messages stand in the columns that entries are read as; 0 for one that is read by itself."""
    read = read_submitted(entries, limit)
    assert list(each(read)) == row_by_row(entries, limit)
    return [len(one.keys) if isinstance(one, PlainBatch) else 0 for one in read]


@pytest.mark.parametrize("mode", [{}, BINARY], ids=["structured", "binary"])
@pytest.mark.parametrize("compression", list(Compression))
def test_the_columns_of_small_batches(mode: Properties, compression: int) -> None:
    first, second = message(GOOD, "a", mode), message(GOOD, "b", mode)
    entries = small([first], [first, second, first], [second], compression=compression, schema_version=b"v1")
    (plain,) = read_submitted(entries, MAX_MESSAGE_BYTES)
    assert isinstance(plain, PlainBatch)
    assert plain.source == Source("7:3:0:", compression, b"v1", None)
    assert (plain.keys, plain.batch_indexes) == (["a", "a", "b", "a", "b"], [0, 0, 1, 2, 0])
    assert plain.positions == ["7:3:0:", "7:4:0:", "7:4:0:", "7:4:0:", "7:5:0:"]
    assert list(each([plain])) == row_by_row(entries)


def test_a_large_batch_is_read_by_itself() -> None:
    def sized(data_bytes: int) -> list[Message]:
        return [message(structured(event_id("good"), "x" * data_bytes))]

    one = [message(GOOD)]
    room = 20_000 + SMALL_BATCH_BYTES - len(batch(sized(20_000)).payload)
    largest, too_large = sized(room), sized(room + 1)
    assert len(batch(largest).payload) == SMALL_BATCH_BYTES
    assert sizes(small(one, largest, one)) == [3]
    assert sizes(small(one, too_large, one)) == [1, 1, 1]
    assert sizes(small(one, too_large, one, compression=Compression.ZSTD)) == [1, 1, 1], "once it is decompressed"


@pytest.mark.parametrize("fields", [{"compression": Compression.LZ4}, {"schema_version": b"v1"}, {}])
def test_small_batches_that_differ_are_not_read_together(fields: Mapping[str, Any]) -> None:
    one = [message(GOOD)]
    others = small(one, one, **fields)
    for entry in others if not fields else ():
        entry.metadata.properties.add(key="reply_to", value=REPLY_TO)
    assert sizes([*small(one, one), *others, *small(one)]) == [2, 2, 1]


def test_what_is_odd_about_one_small_batch_is_no_matter_to_the_others() -> None:
    good, odd = [message(GOOD)] * 2, [message(GOOD), message(listed("1", "2"))]
    assert sizes(small(good, odd, good, [message(GOOD, properties=BINARY)])) == [2, 0, 0, 2, 1]


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (0, 4), (4, 0)])
def test_a_batch_that_holds_another_number_than_it_says_is_not_mended_by_its_neighbour(counts: Sequence[int]) -> None:
    good = [message(GOOD)] * 2
    entries = [
        one._replace(message_id=MessageId(7, n, 0)) for n, one in enumerate(batch(good, count=n) for n in counts)
    ]
    assert PlainBatch not in set(map(type, read_submitted(entries, MAX_MESSAGE_BYTES)))
    assert read_submitted(entries, MAX_MESSAGE_BYTES) == row_by_row(entries)


@pytest.mark.parametrize(
    "odd", [encrypted(batch([message(GOOD)])), batch([message(GOOD)])._replace(damage="checksum mismatch")]
)
def test_a_closed_entry_stays_closed_between_small_batches(odd: Entry) -> None:
    good = [message(GOOD)]
    entries = [*small(good, good), odd, *small(good)]
    assert sizes(entries) == [1, 1, 0, 1]


@pytest.mark.parametrize("binary", [False, True])
def test_each_outcome_names_its_own_place_in_its_own_batch(binary: bool) -> None:
    def expecting(version: int) -> Message:
        return message(structured(version=version), "a", {"id": ID, "version": str(version)} if binary else {})

    overlay = Overlay(Index(), partition=0, partitions=1, next_sequence=7)
    right, wrong, last = map(expecting, (4, 9, 5))
    outcomes = overlay.decide(read_submitted(small([right, wrong], [wrong, last]), MAX_MESSAGE_BYTES)).outcomes
    accepted, *rejected = outcomes
    assert isinstance(accepted, AcceptedRun)
    heads = accepted_messages(accepted).heads
    assert [properties_of(head)["submission"] for head in heads] == ["7:3:0:0", "7:4:0:1"]
    rejections = [rejected_message(one).heads[0] for one in rejected if isinstance(one, Rejected)]
    assert [properties_of(head)["submission"] for head in rejections] == ["7:3:0:1", "7:4:0:0"]


# --- messages that are no batch ---


def alone(*payloads: bytes, keys: Sequence[str] = (), **fields: Any) -> list[Entry]:
    """From a publisher that does not batch, one entry after the other."""
    entries = [single(payload, key) for payload, key in zip(payloads, keys or repeat("a"), strict=False)]
    for entry in entries:
        for name, value in fields.items():
            setattr(entry.metadata, name, value)
    return [entry._replace(message_id=MessageId(7, n, 0)) for n, entry in enumerate(entries, 3)]


def test_the_columns_of_messages_that_are_no_batch() -> None:
    payloads = [structured(ID.upper(), "é", version=-1), GOOD, structured()]
    entries = alone(*payloads, keys=["a", "\N{SNOWMAN}", "k" * 256], schema_version=b"v1")
    (plain,) = read_submitted(entries, MAX_MESSAGE_BYTES)
    assert isinstance(plain, PlainBatch)
    assert plain.source == Source("7:3:0:", 0, b"v1", None)
    assert (plain.positions, plain.batch_indexes) == (["7:3:0:", "7:4:0:", "7:5:0:"], [-1, -1, -1])
    assert (plain.keys, plain.expected) == (["a", "\N{SNOWMAN}", "k" * 256], [-1, 4, None])
    assert list(each([plain])) == [one for entry in entries for one in read_entry(entry, MAX_MESSAGE_BYTES)]


def test_batches_stand_between_messages_that_are_none() -> None:
    entries = [*alone(GOOD, GOOD), batch([message(GOOD)]), batch([message(GOOD), message(GOOD)]), *alone(GOOD)]
    assert sizes(entries) == [2, 3, 1]


ODD_ALONE: Mapping[str, list[Entry]] = {
    "a property": [single(GOOD, properties={"mine": "1"})],
    "binary mode": [single(b"bytes", properties=BINARY)],
    "an event time": alone(GOOD, event_time=1),
    "an ordering key": alone(GOOD, ordering_key=b"o"),
    "compression": [single(GOOD, compression=Compression.LZ4)],
    "another schema": [*alone(GOOD), *alone(GOOD, schema_version=b"v1")],
    "no key": [single(GOOD, None)],
    "a key that may be too long": alone(GOOD, keys=["k" * 257]),
    "a null value": alone(GOOD, null_value=True),
    "a chunk": alone(GOOD, num_chunks_from_msg=2),
    "an empty payload": alone(b""),
    "a list": alone(listed("1", "2")),
    "not UTF-8": alone(GOOD[:-1] + b"\xff}"),
    "nested too deeply": alone(b'{"id": "%b", "data": %b}' % (ID.encode(), DEEP)),
    "encrypted": [encrypted(single(GOOD))],
}


@pytest.mark.parametrize("odd", ODD_ALONE.values(), ids=ODD_ALONE)
def test_what_is_odd_about_one_sends_all_of_them_the_general_way(odd: list[Entry]) -> None:
    entries = [*alone(GOOD), *odd]
    read = read_submitted(entries, MAX_MESSAGE_BYTES)
    assert read == [one for entry in entries for one in read_entry(entry, MAX_MESSAGE_BYTES)]
    assert len(read) == len(entries)


def test_an_outcome_must_fit_beside_the_largest() -> None:
    entries = alone(GOOD, structured(data="x" * 3000))
    needed = len(entries[1].payload) + MAX_KEY_BYTES + OUTCOME_BYTES
    assert [type(one) for one in read_submitted(entries, needed)] == [PlainBatch]
    assert [type(one) for one in read_submitted(entries, needed - 1)] == [Submission, Submission]


def test_each_outcome_names_its_own_entry() -> None:
    overlay = Overlay(Index(), partition=0, partitions=1, next_sequence=7)
    entries = alone(structured(version=4), structured(version=9), structured(version=5), keys=["a", "a", "a"])
    outcomes = overlay.decide(read_submitted(entries, MAX_MESSAGE_BYTES)).outcomes
    accepted, rejected = outcomes
    assert isinstance(accepted, AcceptedRun)
    assert isinstance(rejected, Rejected)
    heads = accepted_messages(accepted).heads
    assert [properties_of(head)["submission"] for head in heads] == ["7:3:0:-1", "7:5:0:-1"]
    assert [properties_of(head)["version"] for head in heads] == ["5", "6"]
    assert properties_of(rejected_message(rejected).heads[0])["submission"] == "7:4:0:-1"


# --- judged ---


class Index:
    """Holds `a` at version 4, whose event 4 has the id `known`."""

    def tails(self, keys: Any) -> list[int]:
        return [4 if key == "a" else -1 for key in keys]

    def accepted(self, asked: Any) -> list[tuple[int, int] | None]:
        known = (bytes.fromhex(event_id("known").replace("-", "")), "a")
        return [(4, 40) if row == known else None for row in asked]


def asked(*rows: tuple[str, str, int | None]) -> PlainBatch:
    """Of key, id and expected version."""
    return read(batch([message(structured(event_id(name), version=version), key) for key, name, version in rows]))


def test_what_is_accepted_of_a_batch_becomes_one_run_and_the_others_come_after_it() -> None:
    overlay = Overlay(Index(), partition=0, partitions=1, next_sequence=100)
    plain = asked(
        ("a", "1", 4), ("a", "2", 4), ("b", "3", -1), ("a", "known", None), ("a", "4", None), ("b", "3", None),
        ("b", "5", 0), ("a", "4", 6),
    )  # fmt: skip
    decided = overlay.decide([plain])
    run, *others = decided.outcomes
    assert isinstance(run, AcceptedRun)
    assert (list(run.batch.batch_indexes), run.versions, run.sequence) == ([0, 2, 4, 6, 7], [5, 0, 6, 1, 7], 100)
    reasons = []
    for other in others:
        assert isinstance(other, Rejected)
        reasons.append((other.submission.batch_index, other.reason, other.accepted, other.accepted_sequence))
    assert reasons == [
        (1, Reason.WRONG_EXPECTED_VERSION, None, None),
        (3, Reason.DUPLICATE, 4, 40),
        (5, Reason.DUPLICATE, 0, 101),
    ]
    assert (decided.messages, decided.tails, decided.next_sequence) == (8, {"a": 7, "b": 1}, 105)
    assert list(decided.ids.rows()) == [
        (plain.event_ids[row], plain.keys[row], version, 100 + place)
        for place, (row, version) in enumerate(zip((0, 2, 4, 6, 7), (5, 0, 6, 1, 7), strict=True))
    ]


def test_a_batch_of_which_nothing_is_accepted_has_no_run() -> None:
    overlay = Overlay(Index(), partition=0, partitions=1, next_sequence=100)
    decided = overlay.decide([asked(("a", "1", 3), ("b", "2", 0))])
    assert [type(outcome) for outcome in decided.outcomes] == [Rejected, Rejected]
    assert (decided.messages, decided.tails, ids_of(decided), decided.next_sequence) == (2, {}, {}, 100)


def test_rows_that_belong_elsewhere_are_forwarded() -> None:
    """Of 2 partitions, by Java's hash: "a" belongs to 1, and "b" and "d" to 0."""
    overlay = Overlay(Index(), partition=1, partitions=2, next_sequence=100)
    decided = overlay.decide([asked(("b", "1", -1), ("a", "2", 4), ("d", "3", None), ("c", "4", -1))])
    run, *others = decided.outcomes
    assert isinstance(run, AcceptedRun)
    assert run.batch.keys == ["a", "c"]
    assert [(type(other), other.submission.batch_index) for other in others if isinstance(other, Forwarded)] == [
        (Forwarded, 0), (Forwarded, 2),
    ]  # fmt: skip
    assert decided.tails == {"a": 5, "c": 0}
