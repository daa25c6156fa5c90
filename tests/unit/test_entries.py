"""From submitted entries to the contract, and back from stored events: good, bad and hostile ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from sequencer.entries import (
    LIST_BYTES,
    MAX_LIST_GROWTH,
    MAX_SCHEMA_VERSION_BYTES,
    ForeignWriter,
    StoredEvent,
    drop_groups,
    portions,
    read_events,
)
from sequencer.event import (
    MAX_ENTRY_BYTES,
    MAX_ENTRY_MESSAGES,
    MAX_KEY_BYTES,
    MAX_LISTED_BYTES,
    MAX_REPLY_TO_BYTES,
    OUTCOME_BYTES,
    PRIMING,
    Accepted,
    Flawed,
    Forwarded,
    Reason,
    Rejected,
    Source,
    Submission,
)
from sequencer.packing import SENDERS_OWN_FIELDS, Output, accepted_messages, forwarded_message, pack
from sequencer.plain import holds_unknown_group
from sequencer.pulsar.batches import Compression
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.judged import (
    accepted_head,
    flawed,
    forwarded_head,
    opened,
    read_all,
    read_one,
    rejected_head,
    rejected_message,
    rejection,
    submission,
)
from tests.submitted import (
    BINARY,
    ID,
    KEY,
    MAX_MESSAGE_BYTES,
    Message,
    batch,
    delivered,
    encrypted,
    event_id,
    message,
    properties_of,
    raw_property,
    sealed_entry,
    sent_metadata,
    single,
    stored,
    structured,
)

MIB = 1024 * 1024
COMPRESSIONS = list(Compression)


# --- reading: what keeps the contract ---


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_structured_messages_of_a_batch(compression: int) -> None:
    payloads = [structured(event_id(str(n)), {"n": n}, version=n - 1) for n in range(3)]
    messages = [message(payload, f"account-{n}") for n, payload in enumerate(payloads)]
    entry = batch(messages, compression=compression, schema_version=b"\0" * 8)
    for n, read in enumerate(read_all(entry, MAX_MESSAGE_BYTES)):
        assert isinstance(read, Submission)
        assert (read.key, read.id_text, read.expected) == (f"account-{n}", event_id(str(n)), n - 1)
        assert (read.head, read.payload) == messages[n]
        assert read.source == Source("7:3:0:", compression, b"\0" * 8, None)
        assert read.batch_index == n


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_message_that_was_not_batched(compression: int) -> None:
    payload = structured(version=3)
    read = submission(single(payload, compression=compression, event_time=17, ordering_key=b"\xff"))
    assert (read.key, read.id_text, read.expected, read.payload) == (KEY, ID, 3, payload)
    assert read.batch_index == -1
    head = SingleMessageMetadata(partition_key=KEY, payload_size=len(payload), event_time=17, ordering_key=b"\xff")
    assert SingleMessageMetadata.FromString(read.head) == head


def test_a_batch_of_one_is_a_batch() -> None:
    assert submission(batch([message(structured())])).batch_index == 0


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("payload", [b"\0\xff\x01", b"{}", b"not json"])
def test_binary_mode_does_not_open_the_payload(payload: bytes, compression: int) -> None:
    properties = {**BINARY, "trace": "1"}
    for entry in (
        single(payload, properties=properties, compression=compression),
        batch([message(payload, properties=properties)], compression=compression),
    ):
        read = submission(entry)
        assert (read.key, read.id_text, read.expected, read.payload) == (KEY, ID, 3, payload)


def test_the_property_id_decides_for_binary_mode() -> None:
    read = submission(single(structured(event_id("another"), version=7), properties={"id": ID}))
    assert (read.id_text, read.expected) == (ID, None)


def test_a_property_version_alone_does_not() -> None:
    read = submission(single(structured(version=7), properties={"version": "x"}))
    assert read.expected == 7


@pytest.mark.parametrize("key", ["a", "Ω", "\U0001f600" * (MAX_KEY_BYTES // 4), "k" * MAX_KEY_BYTES, " ", "\0", "a/b?"])
def test_keys_that_are_allowed(key: str) -> None:
    assert submission(batch([message(structured(), key)])).key == key
    assert submission(single(structured(), key)).key == key


def test_an_encoded_key_is_the_wire_string() -> None:
    read = submission(single(structured(), "YWNjb3VudA==", partition_key_b64_encoded=True))
    assert read.key == "YWNjb3VudA=="
    assert SingleMessageMetadata.FromString(read.head).partition_key_b64_encoded


def test_acknowledged_parts_of_a_batch_are_read_again() -> None:
    entry = batch([message(structured()), message(structured())])._replace(ack_set=(0b10,))
    assert len(read_all(entry, MAX_MESSAGE_BYTES)) == 2


def test_a_compacted_out_flag_of_a_publisher_is_taken_away() -> None:
    hidden = message(structured(), compacted_out=True, properties={"id": ID, "mine": "1"})
    read = submission(batch([hidden]))
    for head in (read.head, accepted_head(Accepted(read, 0, 0))):
        assert not SingleMessageMetadata.FromString(head).compacted_out
    assert SingleMessageMetadata.FromString(read.head).partition_key == KEY


# --- reading: in portions ---


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([1], [[1]]),
        ([4, 4, 2, 1], [[4, 4, 2], [1]]),
        ([10, 10], [[10], [10]]),
        ([1, 11, 1, 1], [[1], [11], [1, 1]]),
        ([11], [[11]]),
        ([3, 3, 3, 3, 3], [[3, 3, 3], [3, 3]]),
    ],
)
def test_entries_are_read_in_portions(counts: list[int], groups: list[list[int]]) -> None:
    entries = [batch([message(GOOD)] * count) for count in counts]
    found = [list(portion) for portion in portions(entries, 10)]
    assert [[entry.metadata.num_messages_in_batch for entry in portion] for portion in found] == groups
    assert [entry for portion in found for entry in portion] == entries


# --- reading: lists of events ---


def several(*names: str, **attributes: str) -> bytes:
    """A payload that holds a list."""
    events = [{"id": event_id(name), "data": name, **attributes} for name in names]
    return json.dumps({"id": ID, "version": 2, "events": events}).encode()


@pytest.mark.parametrize("batched", [True, False])
def test_the_events_of_a_list_stand_by_themselves(batched: bool) -> None:
    payload, properties = several("one", "two"), {"mine": "1", "version": "from the publisher", "type": "replaced"}
    if batched:
        read = submission(batch([message(payload, properties=properties, event_time=9)]))
    else:
        read = submission(single(payload, properties=properties, event_time=9))
    assert (read.id_text, read.expected, read.payload) == (ID, 2, payload)
    assert read.several is not None
    heads, payloads, _ = accepted_messages(Accepted(read, 3, 17))
    assert payloads == [json.dumps({"id": event_id(name), "data": name}).encode() for name in ("one", "two")]
    for n, (head, event) in enumerate(zip(heads, read.several, strict=True)):
        place = f"7:3:0:{read.batch_index}"
        written = {"id": event.id_text, "version": str(3 + n), "sequence": str(17 + n), "submission": place}
        assert properties_of(head) == {"mine": "1", "type": "replaced"} | written
        parsed = SingleMessageMetadata.FromString(head)
        assert (parsed.partition_key, parsed.event_time, parsed.payload_size) == (KEY, 9, len(event.payload))


def test_an_events_attributes_become_properties_and_win() -> None:
    read = submission(
        batch([message(several("one", type="opened", subject="s"), properties={"type": "t", "source": "x"})])
    )
    (head,) = accepted_messages(Accepted(read, 0, 0)).heads
    told = properties_of(head)
    assert (told["type"], told["subject"], told["source"]) == ("opened", "s", "x")


def test_a_rejected_list_is_one_message() -> None:
    read = submission(batch([message(several("one", "two"))]))
    told = properties_of(rejected_head(Rejected(read, Reason.CONFLICTING_IDS, "1 of 2", 2, 5)))
    assert (told["id"], told["reason"], told["current_version"]) == (ID, "conflicting_ids", "5")


def test_more_events_than_an_entry_may_hold_leave_the_lists_that_fit() -> None:
    names = [f"event {n}" for n in range(1000)]
    payload = several(*names)
    read = read_all(batch([message(payload)] * 11 + [message(structured())]), MAX_MESSAGE_BYTES)
    reasons = [one.reason if isinstance(one, Flawed) else len(one.several or "1") for one in read]
    assert reasons == [1000] * 10 + [Reason.TOO_LARGE, 1]
    late = read[10]
    assert isinstance(late, Flawed)
    assert late.payload == payload
    assert late.detail == "a list of 1000, with 0 left of the 10000 events of an entry's lists"


def test_lists_do_not_multiply_their_properties_without_end() -> None:
    """Every event of a list gets the message's properties: a few more of them, and a small entry is a large one."""
    payload, properties = several(*(f"event {n}" for n in range(15))), {"mine": "x" * 250_000}
    one = message(payload, properties=properties)
    fitting = MAX_LISTED_BYTES // (15 * len(one[0]) + len(payload))
    entry = batch([one] * (fitting + 2) + [message(payload)], compression=Compression.LZ4)
    read = read_all(entry, MAX_MESSAGE_BYTES)
    reasons = [one.reason if isinstance(one, Flawed) else len(one.several or "1") for one in read]
    assert reasons == [15] * fitting + [Reason.TOO_LARGE] * 2 + [15]
    late = read[fitting]
    assert isinstance(late, Flawed)
    assert (late.payload, late.id_text) == (payload, ID)
    assert f"of {MAX_LISTED_BYTES} are left" in late.detail
    again = read_all(entry, 2**31)
    assert [type(one) for one in again] == [type(one) for one in read], "whatever the limit of whoever reads it"


def test_a_list_grows_to_a_multiple_of_itself_at_the_most() -> None:
    """Many small entries, each with a list that grows to as much as an entry's lists may, would be one transaction."""
    payload = several(*(f"event {n}" for n in range(100)))
    free = (LIST_BYTES - len(payload)) // 100 - len(message(payload, properties={"mine": ""})[0]) - 8
    assert submission(batch([message(payload, properties={"mine": "x" * free})])).several
    read = flawed(batch([message(payload, properties={"mine": "x" * (free + 20)})]))
    assert (read.reason, read.id_text, read.payload) == (Reason.TOO_LARGE, ID, payload)
    assert f"more than {MAX_LIST_GROWTH} times its own" in read.detail
    large = several(*("e" * 2000 for n in range(1)), *(f"{n}" + "e" * 2000 for n in range(99)))
    assert submission(batch([message(large, properties={"mine": "x" * (free + 20)})])).several, "its own size counts"


def test_an_event_that_grows_too_large_with_its_attributes() -> None:
    payload = several("one", subject="s" * 3000)
    limit = len(payload) + 100 + OUTCOME_BYTES
    read = flawed(batch([message(payload)]), limit)
    assert read.reason == Reason.TOO_LARGE
    assert "an event of the list" in read.detail
    assert read.payload == payload


def test_who_waits_for_an_answer() -> None:
    asking = {"reply_to": "non-persistent://a/b/c"}
    assert submission(batch([message(structured(), properties=asking)])).reply_to == asking["reply_to"]
    assert submission(single(structured(), properties=asking)).reply_to == asking["reply_to"]
    assert flawed(batch([message(b"?", properties=asking)])).reply_to == asking["reply_to"]
    read = submission(batch([message(several("one", "two"), properties=asking)]))
    assert read.reply_to == asking["reply_to"]
    assert [event.reply_to for event in read.several or ()] == ["", ""], "the list is answered as a whole"


def test_a_batch_asks_for_answers_to_all_of_its_messages_that_do_not_say_otherwise() -> None:
    own = {"reply_to": "non-persistent://a/b/own"}
    entry = batch([message(structured()), message(structured(), properties=own), message(b"?")])
    entry.metadata.properties.add(key="reply_to", value="non-persistent://a/b/all")
    read = read_all(entry, MAX_MESSAGE_BYTES)
    assert [one.reply_to for one in read] == [f"non-persistent://a/b/{name}" for name in ("all", "own", "all")]
    plain, owning = read[:2]
    assert isinstance(plain, Submission)
    assert isinstance(owning, Submission)
    assert "reply_to" not in properties_of(accepted_head(Accepted(plain, 0, 0)))
    for submitted in (plain, owning):
        forwarded = properties_of(forwarded_head(Forwarded(submitted, 1)))
        assert forwarded["reply_to"] == submitted.reply_to, "its batch stays behind"


@pytest.mark.parametrize("topic", [b"\xff\xfe", b"x" * 513], ids=["not-utf-8", "too-long"])
def test_what_no_copy_could_carry_is_not_asked_of_a_batch(topic: bytes) -> None:
    entry = batch([message(structured())])
    entry.metadata.MergeFromString(b"\x22" + length_prefixed(b"\n\x08reply_to\x12" + length_prefixed(topic)))
    assert entry.metadata.properties[0].key == "reply_to"
    (read,) = read_all(entry, MAX_MESSAGE_BYTES)
    assert isinstance(read, Submission)
    assert read.reply_to == ""
    assert "reply_to" not in properties_of(forwarded_head(Forwarded(read, 1)))


def length_prefixed(content: bytes) -> bytes:
    """As in a protobuf message, up to 2^14 bytes."""
    size = len(content)
    return (bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])) + content


# --- reading: what breaks it ---

GOOD = structured()
NOT_UTF8 = b"\xff\xfe"


def raw_key_single(key: bytes, payload: bytes = GOOD) -> Entry:
    """Unbatched, with a partition key that no string can hold."""
    entry = single(payload, None)
    entry.metadata.MergeFromString(b"\x32" + bytes([len(key)]) + key)
    return entry


def raw_key_batch(key: bytes, payload: bytes = GOOD) -> Entry:
    head = message(payload, None)[0] + b"\x12" + bytes([len(key)]) + key
    return batch([(head, payload)])


@pytest.mark.parametrize(
    ("entry", "reason", "detail", "id_text"),
    [
        pytest.param(batch([message(GOOD, None)]), Reason.MISSING_KEY, "", ID, id="no-key-in-a-batch"),
        pytest.param(single(GOOD, None), Reason.MISSING_KEY, "", ID, id="no-key"),
        pytest.param(batch([message(GOOD, "")]), Reason.MISSING_KEY, "", ID, id="empty-key-in-a-batch"),
        pytest.param(single(GOOD, ""), Reason.MISSING_KEY, "", ID, id="empty-key"),
        pytest.param(batch([message(GOOD, null_partition_key=True)]), Reason.MISSING_KEY, "", ID, id="null-key-batch"),
        pytest.param(single(GOOD, null_partition_key=True), Reason.MISSING_KEY, "", ID, id="null-key"),
        pytest.param(single(b"{}", None), Reason.MISSING_KEY, "", "", id="no-key-and-no-id"),
        pytest.param(raw_key_batch(NOT_UTF8), Reason.MALFORMED, "not UTF-8", ID, id="not-utf8-key-in-a-batch"),
        pytest.param(raw_key_single(NOT_UTF8), Reason.MALFORMED, "not UTF-8", ID, id="not-utf8-key"),
        pytest.param(single(GOOD, "k" * 1025), Reason.MALFORMED, "a key of 1025 bytes", ID, id="long-key"),
        pytest.param(batch([message(GOOD, "ü" * 513)]), Reason.MALFORMED, "of 1026 bytes", ID, id="long-key-in-utf8"),
        pytest.param(single(b""), Reason.MALFORMED, "empty payload", "", id="empty-payload"),
        pytest.param(single(b"", properties=BINARY), Reason.MALFORMED, "empty payload", "", id="empty-payload-binary"),
        pytest.param(batch([message(b"")]), Reason.MALFORMED, "empty payload", "", id="empty-payload-in-a-batch"),
        pytest.param(single(GOOD, null_value=True), Reason.MALFORMED, "empty payload", "", id="null-value"),
        pytest.param(batch([message(GOOD, null_value=True)]), Reason.MALFORMED, "empty payload", "", id="null-value-b"),
        pytest.param(single(b"[]"), Reason.MALFORMED, "JSON object", "", id="not-an-object"),
        pytest.param(single(b'{"id": 1'), Reason.MALFORMED, "JSON object", "", id="not-json"),
        pytest.param(single(structured("?").replace(b"?", NOT_UTF8)), Reason.MALFORMED, "UTF-8", "", id="not-utf8"),
        pytest.param(single(structured(version="1")), Reason.MALFORMED, "`str`", "", id="version-string"),
        pytest.param(single(b"x", properties={"id": "x"}), Reason.MALFORMED, "UUID", "", id="binary-id"),
        pytest.param(single(GOOD, properties={"id": ""}), Reason.MALFORMED, "UUID", "", id="binary-id-empty"),
        pytest.param(
            single(b"x", properties={**BINARY, "version": "1.5"}), Reason.MALFORMED, "version", ID, id="binary-version"
        ),
    ],
)  # fmt: skip
def test_a_message_that_breaks_the_contract(entry: Entry, reason: Reason, detail: str, id_text: str) -> None:
    read = flawed(entry)
    assert (read.reason, read.id_text) == (reason, id_text)
    assert detail in read.detail
    properties = properties_of(rejected_head(Rejected(read, read.reason, read.detail)))
    assert properties["reason"] == reason
    assert properties["submission"] == f"7:3:0:{read.batch_index}"


@pytest.mark.parametrize("entry", [raw_key_single(NOT_UTF8), raw_key_batch(NOT_UTF8)], ids=["single", "batch"])
def test_a_key_that_is_not_utf8_stays_as_it_was(entry: Entry) -> None:
    (head,) = rejection(flawed(entry)).heads
    key: object = SingleMessageMetadata.FromString(head).partition_key
    assert key == NOT_UTF8
    assert raw_key_single(b"ok").metadata.partition_key == "ok", "the test writes the right field"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({b"id": NOT_UTF8}, "UUID", id="id"),
        pytest.param({b"id": b"\xff" * 36}, "UUID", id="id-of-36-bytes"),
        pytest.param({b"id": ID.encode(), b"version": b"\xff"}, "version", id="version"),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_binary_mode_with_properties_that_are_not_utf8(
    properties: dict[bytes, bytes], expected: str, batched: bool
) -> None:
    head, payload = message(b"opaque")
    if batched:
        entry = batch([(head + b"".join(raw_property(*pair) for pair in properties.items()), payload)])
    else:
        entry = single(payload)
        for pair in properties.items():
            entry.metadata.MergeFromString(raw_property(*pair, tag=b"\x22"))
    read = flawed(entry)
    assert read.reason == Reason.MALFORMED
    assert expected in read.detail
    assert properties_of(rejected_head(Rejected(read, read.reason, read.detail)))["reason"] == "malformed"


def test_other_properties_that_are_not_utf8_are_kept_as_they_are() -> None:
    head, payload = message(b"opaque", properties=BINARY)
    odd = raw_property(b"\xfe", NOT_UTF8)
    read = submission(batch([(head + odd, payload)]))
    assert odd in accepted_head(Accepted(read, 4, 9))


def test_one_bad_message_does_not_spoil_its_batch() -> None:
    read = read_all(batch([message(GOOD), message(b"{}"), message(GOOD)]), MAX_MESSAGE_BYTES)
    assert [type(one) for one in read] == [Submission, Flawed, Submission]
    assert [one.batch_index for one in read] == [0, 1, 2]


# --- reading: entries that stay closed ---

TWO = [message(GOOD), message(structured(event_id("second")))]
INCOMPLETE_PROPERTY = b"\x0a\x06\x0a\x04half"


def lying(entry: Entry, payload: Callable[[bytes], bytes]) -> Entry:
    return entry._replace(payload=payload(entry.payload))


def without_required_fields() -> Entry:
    entry = single(GOOD, properties={"mine": "1"})
    entry.metadata.MergeFromString(b"\x22" + INCOMPLETE_PROPERTY[1:])
    return entry


@pytest.mark.parametrize(
    ("entry", "reason", "detail"),
    [
        pytest.param(batch(TWO, count=1), Reason.MALFORMED, "after the last of 1", id="count-too-small"),
        pytest.param(batch(TWO, count=3), Reason.MALFORMED, "cannot be read", id="count-too-large"),
        pytest.param(batch(TWO, count=0), Reason.MALFORMED, "a batch of 0", id="count-zero"),
        pytest.param(batch(TWO, count=-1), Reason.MALFORMED, "a batch of -1", id="count-negative"),
        pytest.param(batch([]), Reason.MALFORMED, "a batch of 0", id="nothing-in-it"),
        pytest.param(batch([], count=1), Reason.MALFORMED, "cannot be read", id="nothing-where-one-is-stated"),
        pytest.param(lying(batch(TWO), lambda b: b[:-1]), Reason.MALFORMED, "longer than its batch", id="truncated"),
        pytest.param(lying(batch(TWO), lambda b: b[:9]), Reason.MALFORMED, "", id="truncated-in-the-metadata"),
        pytest.param(lying(batch(TWO), lambda b: b[:2]), Reason.MALFORMED, "", id="truncated-in-the-size"),
        pytest.param(lying(batch(TWO), lambda b: b + b"\0"), Reason.MALFORMED, "1 bytes after", id="trailing-byte"),
        pytest.param(lying(batch(TWO), lambda b: b"\xff" * 40), Reason.MALFORMED, "", id="garbage"),
        pytest.param(
            batch([(SingleMessageMetadata(payload_size=-1).SerializeToString(), b"")]), Reason.MALFORMED, "longer",
            id="negative-size",
        ),
        pytest.param(batch([(b"", b"")]), Reason.MALFORMED, "lacks a required field", id="no-size"),
        pytest.param(
            batch([TWO[0], (TWO[1][0] + INCOMPLETE_PROPERTY, TWO[1][1])]), Reason.MALFORMED,
            "message 1 lacks a required field", id="half-a-property-in-a-batch",
        ),
        pytest.param(without_required_fields(), Reason.MALFORMED, "lacks a required field", id="half-a-property"),
        pytest.param(
            stored(MessageMetadata(partition_key=KEY), GOOD), Reason.MALFORMED, "lacks a required field",
            id="no-producer",
        ),
        pytest.param(single(GOOD)._replace(metadata=sent_metadata(partition_key=KEY, compression=1)),
                     Reason.MALFORMED, "", id="compressed-it-says"),
        pytest.param(batch(TWO, count=MAX_ENTRY_MESSAGES + 1), Reason.TOO_LARGE, "10001 messages", id="count-huge"),
        pytest.param(batch(TWO, count=2**31 - 1), Reason.TOO_LARGE, "messages in one batch", id="count-largest"),
        pytest.param(
            batch(TWO, compression=1, uncompressed_size=MAX_ENTRY_BYTES + 1), Reason.TOO_LARGE, "uncompressed",
            id="size-large",
        ),
        pytest.param(
            batch(TWO, compression=3, uncompressed_size=2**32 - 1), Reason.TOO_LARGE, "uncompressed", id="size-largest"
        ),
        pytest.param(single(GOOD, num_chunks_from_msg=2), Reason.CHUNKED, "", id="chunked"),
        pytest.param(
            single(GOOD[:9], num_chunks_from_msg=3, chunk_id=1, uuid="p-0", total_chunk_msg_size=len(GOOD)),
            Reason.CHUNKED, "", id="chunk-in-the-middle",
        ),
        pytest.param(
            single(GOOD, schema_version=b"v" * (MAX_SCHEMA_VERSION_BYTES + 1)), Reason.MALFORMED, "schema version",
            id="schema-version",
        ),
        pytest.param(
            Entry(MessageId(7, 3, 0), MessageMetadata(), b"\0\0\1all of it", 0, (), "checksum mismatch"),
            Reason.MALFORMED, "checksum mismatch", id="damaged",
        ),
    ],
)  # fmt: skip
def test_an_entry_that_stays_closed(entry: Entry, reason: Reason, detail: str) -> None:
    read = flawed(entry)
    assert (read.reason, read.id_text, read.batch_index) == (reason, "", -1)
    assert detail in read.detail
    assert read.payload == entry.payload, "its bytes are kept as they were stored"
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    ((metadata, payload),) = opened(output)
    assert payload == entry.payload
    assert not MessageMetadata.FromString(output.metadata).compression, "compressing it again would hide what it was"
    assert {"reason": reason, "submission": "7:3:0:-1"}.items() <= {f.key: f.value for f in metadata.properties}.items()
    assert metadata.partition_key == entry.metadata.partition_key


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
@pytest.mark.parametrize("lie", [-1, 1, -(10**9)])
def test_a_wrong_uncompressed_size(compression: int, lie: int) -> None:
    for true in (batch(TWO, compression=compression), single(GOOD, compression=compression)):
        stated = max(0, true.metadata.uncompressed_size + lie)
        true.metadata.uncompressed_size = stated
        read = flawed(true)
        assert (read.reason, read.payload, read.batch_index) == (Reason.MALFORMED, true.payload, -1)


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_a_payload_that_cannot_be_decompressed(compression: int) -> None:
    entry = batch(TWO, compression=compression)
    for payload in (b"", b"\xff" * 50, entry.payload[:-2]):
        read = flawed(entry._replace(payload=payload))
        assert (read.reason, read.payload) == (Reason.MALFORMED, payload)


def test_an_unknown_compression() -> None:
    entry = batch(TWO)
    entry.metadata.MergeFromString(b"\x40\x09")
    read = flawed(entry)
    assert (read.reason, read.detail) == (Reason.MALFORMED, "unknown compression 9")
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    assert opened(output)[0][1] == entry.payload


def test_a_size_that_is_stated_wrongly_without_compression_does_no_harm() -> None:
    assert len(read_all(batch(TWO, uncompressed_size=1), MAX_MESSAGE_BYTES)) == 2


# --- reading: encrypted messages in binary mode ---


def test_an_encrypted_message_is_judged_by_its_properties_and_travels_on_unopened() -> None:
    entry = sealed_entry(sequence="mine", trace="1")
    entry.metadata.uncompressed_size = 2**31 - 1  # whatever is inside
    entry.metadata.txnid_most_bits = 9
    read = submission(entry)
    assert (read.id_text, read.expected, read.payload) == (ID, 3, entry.payload)
    (output,) = pack([accepted_messages(Accepted(read, 4, 17))], MAX_MESSAGE_BYTES)
    assert (output.payload, output.num_messages) == (entry.payload, 1)
    sent = MessageMetadata.FromString(output.metadata)
    assert {field.key: field.value for field in sent.properties} == {
        "id": ID, "version": "4", "sequence": "17", "submission": "7:3:0:-1", "trace": "1",
    }  # fmt: skip
    assert len(sent.properties) == 5
    assert not any(sent.HasField(name) for name in SENDERS_OWN_FIELDS if name != "replicate_to")
    assert not sent.HasField("num_messages_in_batch"), "it must not look like a batch"
    for name in ("encryption_keys", "encryption_param", "compression", "partition_key", "event_time"):
        assert getattr(sent, name) == getattr(entry.metadata, name)
    (back,) = read_events(delivered(output))
    assert (back.key, back.version, back.sequence) == (KEY, 4, 17)


@pytest.mark.parametrize("size", [0, 2**31, 2**32 - 1])
def test_an_encrypted_message_that_compaction_would_take_for_a_tombstone(size: int) -> None:
    """It asks for the stated size, a Java int, of what it cannot open: its aggregate would begin anew."""
    entry = sealed_entry()
    entry.metadata.uncompressed_size = size
    read = flawed(entry)
    assert (read.reason, read.id_text, read.payload) == (Reason.MALFORMED, ID, entry.payload)
    assert f"size of {size}: compaction" in read.detail
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    assert MessageMetadata.FromString(output.metadata).encryption_keys, "whoever has the key can look at it"


@pytest.mark.parametrize("size", [None, 1, 2**31 - 1])
def test_an_encrypted_message_that_compaction_would_keep(size: int | None) -> None:
    entry = sealed_entry()
    entry.metadata.ClearField("uncompressed_size")
    if size is not None:
        entry.metadata.uncompressed_size = size
    assert submission(entry).id_text == ID


def test_an_encrypted_message_with_a_bad_version_stays_encrypted() -> None:
    read = flawed(sealed_entry(version="x"))
    assert (read.reason, read.id_text) == (Reason.MALFORMED, ID)
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    assert MessageMetadata.FromString(output.metadata).encryption_keys
    assert output.payload == read.payload


@pytest.mark.parametrize(
    ("entry", "reason", "detail", "gone"),
    [
        pytest.param(
            batch(TWO, compression=3),
            Reason.ENCRYPTED,
            "the keys of an encrypted batch cannot be seen; messages in it: 2",
            {"num_messages_in_batch"},
            id="batch",
        ),
        pytest.param(
            batch([message(b"x", properties=BINARY)]),
            Reason.ENCRYPTED,
            "the keys of an encrypted batch cannot be seen; messages in it: 1",
            {"num_messages_in_batch"},
            id="batch-of-one",
        ),
        pytest.param(
            single(GOOD, compression=3, event_time=5),
            Reason.ENCRYPTED,
            "an encrypted event needs its id as a property",
            set(),
            id="structured",
        ),
        pytest.param(
            single(GOOD, compression=3, num_chunks_from_msg=3, chunk_id=1, uuid="p-0", total_chunk_msg_size=9),
            Reason.CHUNKED,
            "chunks are judged one by one",
            {"num_chunks_from_msg", "chunk_id", "uuid", "total_chunk_msg_size", "compression", "uncompressed_size"},
            id="chunk",
        ),
    ],
)
def test_an_encrypted_entry_that_stays_closed_can_be_decrypted(
    entry: Entry, reason: Reason, detail: str, gone: set[str]
) -> None:
    """By whoever has the key; to his client its bytes are those of one message, which says why it was rejected."""
    entry = encrypted(entry)
    read = flawed(entry)
    assert (read.reason, read.detail, read.id_text, read.batch_index) == (reason, detail, "", -1)
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    assert (output.payload, output.num_messages) == (entry.payload, 1)
    sent = MessageMetadata.FromString(output.metadata)
    assert {field.key: field.value for field in sent.properties}.items() >= {"reason": reason}.items()
    kept = {field.name for field, _ in entry.metadata.ListFields()} - gone - set(SENDERS_OWN_FIELDS)
    assert {field.name for field, _ in sent.ListFields()} == kept | {"properties"}
    assert all(getattr(sent, name) == getattr(entry.metadata, name) for name in kept)


def test_the_largest_closed_encrypted_entry() -> None:
    entry = encrypted(batch(TWO))
    entry.metadata.encryption_keys[0].value = b"k" * 5000
    room = MAX_MESSAGE_BYTES - OUTCOME_BYTES - entry.metadata.ByteSize()
    (output,) = pack([rejection(flawed(entry._replace(payload=b"s" * room)))], MAX_MESSAGE_BYTES)
    assert len(output.payload) == room
    assert MAX_MESSAGE_BYTES - OUTCOME_BYTES <= len(output.metadata) + room <= MAX_MESSAGE_BYTES
    (output,) = pack([rejection(flawed(entry._replace(payload=b"s" * (room + 8))))], MAX_MESSAGE_BYTES)
    ((metadata, payload),) = opened(output)
    assert payload == b"", "too large, told in the open"
    assert {f.key: f.value for f in metadata.properties}["reason"] == Reason.TOO_LARGE


@pytest.mark.parametrize("properties_bytes", [0, 3 * MIB])
def test_an_encrypted_message_may_be_as_large_as_any(properties_bytes: int) -> None:
    limit = MAX_MESSAGE_BYTES
    entry = sealed_entry(note="n" * properties_bytes)
    room = limit - OUTCOME_BYTES - entry.metadata.ByteSize()
    fits = submission(entry._replace(payload=b"s" * room))
    (output,) = pack([accepted_messages(Accepted(fits, 4, 17))], limit)
    assert len(output.metadata) + len(output.payload) <= limit
    assert flawed(entry._replace(payload=b"s" * (room + 8))).reason == Reason.TOO_LARGE


def test_a_too_large_encrypted_message_is_rejected_in_the_open() -> None:
    entry = sealed_entry(trace="1")._replace(payload=b"s" * (MAX_MESSAGE_BYTES - 100))
    (output,) = pack([rejection(flawed(entry))], MAX_MESSAGE_BYTES)
    assert not MessageMetadata.FromString(output.metadata).encryption_keys, "without a payload nobody could decrypt it"
    ((metadata, payload),) = opened(output)
    assert payload == b""
    assert (metadata.partition_key, {f.key: f.value for f in metadata.properties}["trace"]) == (KEY, "1")


@pytest.mark.parametrize("count", [None, 2], ids=["message", "batch"])
def test_a_too_large_encrypted_entry_of_an_unknown_compression_is_rejected_like_any(count: int | None) -> None:
    entry = sealed_entry()._replace(payload=b"s" * (MAX_MESSAGE_BYTES - 100))
    entry.metadata.compression = 9
    if count is not None:
        entry.metadata.num_messages_in_batch = count
    (output,) = pack([rejection(flawed(entry))], MAX_MESSAGE_BYTES)
    ((metadata, payload),) = opened(output)
    assert (metadata.partition_key, payload) == (KEY, b"")


# --- reading: fields that nobody knows ---


GROUP, NUMBER = b"\x7b\x7c", b"\x78\x01"
PROPERTY = b"\x0a\x01a\x12\x01b"


def a_property_with(field: bytes, tag: bytes) -> bytes:
    return tag + bytes([len(PROPERTY + field)]) + PROPERTY + field


def of_a_batch(head: bytes) -> Entry:
    return batch([(message(GOOD)[0] + head, GOOD), message(GOOD)])


def of_an_entry(entry: Entry, more: bytes) -> Entry:
    entry.metadata.MergeFromString(more)
    return entry


@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(of_a_batch, id="in a batch"),
        pytest.param(lambda field: of_a_batch(a_property_with(field, b"\x0a")), id="in a property in a batch"),
        pytest.param(lambda field: of_an_entry(single(GOOD), field), id="in an entry"),
        pytest.param(lambda field: of_an_entry(batch([message(GOOD)]), field), id="in a batch's own metadata"),
        pytest.param(
            lambda field: of_an_entry(single(GOOD), a_property_with(field, b"\x22")), id="in a property of an entry"
        ),
        pytest.param(lambda field: of_an_entry(sealed_entry(), field), id="in an encrypted entry"),
        pytest.param(
            lambda field: of_an_entry(sealed_entry(), a_property_with(field, b"\x22")),
            id="in a property of an encrypted entry",
        ),
    ],
)
def test_no_outcome_holds_a_group(hide: Callable[[bytes], Entry]) -> None:
    """A broker could not compact `events` any more, nor a Java consumer read the entry."""
    for read in read_all(hide(NUMBER + GROUP), MAX_MESSAGE_BYTES):
        assert isinstance(read, Submission)
        check_no_group(*pack([accepted_messages(Accepted(read, 4, 17))], MAX_MESSAGE_BYTES))
        check_no_group(*pack([rejected_message(Rejected(read, Reason.WRONG_EXPECTED_VERSION))], MAX_MESSAGE_BYTES))
        check_no_group(*pack([forwarded_message(Forwarded(read, 1))], MAX_MESSAGE_BYTES))


def test_nor_does_what_is_said_of_an_entry_that_stays_closed() -> None:
    for entry in (single(GOOD, num_chunks_from_msg=2), encrypted(batch([message(GOOD)])), single(b"?")):
        of_an_entry(entry, GROUP + a_property_with(GROUP, b"\x22"))
        check_no_group(*pack([rejection(flawed(entry))], MAX_MESSAGE_BYTES))


@pytest.mark.parametrize("place", [GROUP, a_property_with(GROUP, b"\x0a")])
def test_a_group_is_seen_wherever_it_stands(place: bytes) -> None:
    single = SingleMessageMetadata.FromString(message(GOOD)[0] + place + NUMBER)
    assert drop_groups(single)
    assert not holds_group(single)
    other = SingleMessageMetadata.FromString(message(GOOD)[0] + NUMBER)
    assert not drop_groups(other)
    assert len(UnknownFieldSet(other)) == 1, "it stays"


def check_no_group(output: Output) -> None:
    metadata = MessageMetadata.FromString(output.metadata)
    assert not holds_group(metadata)
    if not metadata.encryption_keys:
        assert not any(holds_group(head) for head, _ in opened(output))


def holds_group(metadata: MessageMetadata | SingleMessageMetadata) -> bool:
    return any(holds_unknown_group(one) for one in (metadata, *metadata.properties))


# --- reading: sizes ---


def of_size(payload_bytes: int) -> bytes:
    payload = structured(data="x" * (payload_bytes - len(structured(data=""))))
    assert len(payload) == payload_bytes
    return payload


def test_the_largest_message_that_fits_with_its_outcome() -> None:
    room = MAX_MESSAGE_BYTES - OUTCOME_BYTES - len(message(of_size(4 * MIB))[0])
    fits = submission(batch([message(of_size(room))]))
    over = flawed(batch([message(of_size(room + 1))]))
    assert (over.reason, over.id_text, over.payload) == (Reason.TOO_LARGE, ID, b"")
    assert str(MAX_MESSAGE_BYTES) in over.detail
    for outcome in (accepted_messages(Accepted(fits, 2**53, 2**60)), rejection(over)):
        (output,) = pack([outcome], MAX_MESSAGE_BYTES)
        assert len(output.metadata) + len(output.payload) < MAX_MESSAGE_BYTES - 512, "the producer adds its own fields"
        assert len(opened(output)) == 1


@pytest.mark.parametrize("compression", [Compression.LZ4, Compression.ZLIB, Compression.ZSTD, Compression.SNAPPY])
def test_a_5_mib_payload_is_too_large_and_keeps_its_properties(compression: int) -> None:
    properties = {"trace": "1", "version": "mine", "reason": "mine"}
    read = flawed(single(of_size(5 * MIB), properties=properties, compression=compression, event_time=9))
    assert (read.reason, read.id_text, read.payload) == (Reason.TOO_LARGE, ID, b"")
    (output,) = pack([rejection(read)], MAX_MESSAGE_BYTES)
    ((metadata, payload),) = opened(output)
    assert payload == b""
    assert (metadata.partition_key, metadata.event_time, metadata.payload_size) == (KEY, 9, 0)
    found = properties_of(metadata.SerializeToString())
    assert found.pop("detail")
    assert found == {"id": ID, "trace": "1", "reason": "too_large", "submission": "7:3:0:-1"}


def test_a_20_mib_json_that_was_compressed_to_1_mib_is_too_large() -> None:
    noise = os.urandom(640 * 1024).hex()
    payload = structured(data=noise + "x" * (20 * MIB - len(noise)))
    entry = single(payload, compression=Compression.ZLIB)
    assert 0.5 * MIB < len(entry.payload) < 1.5 * MIB
    read = flawed(entry)
    assert (read.reason, read.id_text, read.payload) == (Reason.TOO_LARGE, ID, b"")
    after = read_one(single(GOOD))
    assert isinstance(after, Submission), "and the partition goes on"


@pytest.mark.parametrize("listed", [False, True])
def test_what_fits_where_it_was_submitted_fits_where_it_is_forwarded_to(listed: bool) -> None:
    def sized(size: int) -> Entry:
        payload = several("one", data="x" * size) if listed else structured(data="x" * size)
        entry = batch([message(payload)])
        entry.metadata.properties.add(key="reply_to", value="t" * MAX_REPLY_TO_BYTES)
        return entry

    room = 4 * MIB
    room += MAX_MESSAGE_BYTES - OUTCOME_BYTES - len(submission(sized(room)).payload) - len(submission(sized(room)).head)
    assert flawed(sized(room + 1)).reason == Reason.TOO_LARGE
    (copy,) = pack([forwarded_message(Forwarded(submission(sized(room)), 1))], MAX_MESSAGE_BYTES)
    assert len(copy.metadata) + len(copy.payload) <= MAX_MESSAGE_BYTES - 256, "the producer adds its own fields"
    arrived = submission(delivered(copy, MessageId(2**63, 2**63, 2**31 - 1)))
    for outcome in (
        accepted_messages(Accepted(arrived, 2**53, 2**60)),
        rejected_message(
            Rejected(arrived, Reason.WRONG_EXPECTED_VERSION, "x" * 1000, 2**53, 2**53, 2**53, 2**53, 2**60)
        ),
    ):
        (output,) = pack([outcome], MAX_MESSAGE_BYTES)
        assert len(output.metadata) + len(output.payload) <= MAX_MESSAGE_BYTES - 256


def test_a_list_that_may_grow_so_far_may_where_it_is_forwarded_to() -> None:
    payload = several(*(f"event {n}" for n in range(100)))
    free = (LIST_BYTES - len(payload)) // 100 - len(message(payload, properties={"mine": ""})[0]) - 8
    entry = batch([message(payload, properties={"mine": "x" * free})])
    entry.metadata.properties.add(key="reply_to", value="t" * MAX_REPLY_TO_BYTES)
    (copy,) = pack([forwarded_message(Forwarded(submission(entry), 1))], MAX_MESSAGE_BYTES)
    assert submission(delivered(copy)).several


def test_a_closed_entry_that_does_not_fit_with_its_outcome() -> None:
    entry = batch([message(of_size(MAX_MESSAGE_BYTES - 200))], count=2)
    read = flawed(entry)
    assert (read.reason, read.payload) == (Reason.TOO_LARGE, b"")


def test_properties_that_do_not_fit_with_their_outcome_are_dropped_too() -> None:
    entry = single(b"x", properties={"id": ID, "huge": "h" * (MAX_MESSAGE_BYTES - 300)})
    (output,) = pack([rejection(flawed(entry))], MAX_MESSAGE_BYTES)
    assert len(output.metadata) + len(output.payload) < OUTCOME_BYTES
    ((metadata, _),) = opened(output)
    found = {field.key: field.value for field in metadata.properties}
    assert (found["id"], found["reason"]) == (ID, "too_large")


def test_a_hostile_schema_version_does_not_outgrow_the_limit() -> None:
    entry = single(GOOD, schema_version=b"v" * (4 * MIB))
    (output,) = pack([rejection(flawed(entry))], MAX_MESSAGE_BYTES)
    assert len(output.metadata) < OUTCOME_BYTES


# --- reading back ---


def events_entry(*messages: Message) -> Entry:
    return batch(messages)._replace(message_id=MessageId(20, 5, 2))


def event(version: str = "4", sequence: str = "17", id_text: str = ID, **fields: Any) -> Message:
    return message(b"x", properties={"id": id_text, "version": version, "sequence": sequence}, **fields)


def test_the_message_of_the_aborted_first_transaction_is_no_event() -> None:
    entry = stored(sent_metadata(), PRIMING)
    assert list(read_events(entry)) == []
    entry.metadata.partition_key = KEY
    with pytest.raises(ForeignWriter):
        list(read_events(entry))


def test_stored_events_of_a_batch() -> None:
    entry = events_entry(event(), event("0", "18", event_id("b"), key="account-2"))
    at_ms = entry.metadata.publish_time
    assert list(read_events(entry)) == [
        StoredEvent(KEY, bytes.fromhex(ID.replace("-", "")), 4, 17, at_ms, "20:5:2:0"),
        StoredEvent("account-2", bytes.fromhex(event_id("b").replace("-", "")), 0, 18, at_ms, "20:5:2:1"),
    ]


def test_what_compaction_took_out_of_a_batch_is_passed_over() -> None:
    out = message(b"", compacted_out=True)
    (found,) = read_events(events_entry(out, event(), out))
    assert found.position == "20:5:2:1", "the others keep their place"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(events_entry(message(b"x")), id="no-properties"),
        pytest.param(events_entry(message(b"x", properties={"id": ID, "version": "4"})), id="no-sequence"),
        pytest.param(events_entry(event(version="four")), id="version-no-number"),
        pytest.param(events_entry(event(version="-1")), id="version-negative"),
        pytest.param(events_entry(event(version=str(2**63))), id="version-above-63-bits"),
        pytest.param(events_entry(event(sequence="-1")), id="sequence-negative"),
        pytest.param(events_entry(event(sequence="")), id="sequence-empty"),
        pytest.param(events_entry(event(id_text="x")), id="id-no-uuid"),
        pytest.param(events_entry(event(), message(b"{}")), id="second-of-a-batch"),
        pytest.param(batch([event()], count=2), id="corrupt-batch"),
        pytest.param(batch([event()], compression=1, uncompressed_size=3), id="wrong-size"),
        pytest.param(single(json.dumps({"id": ID}).encode()), id="a-submission"),
        pytest.param(events_entry(event())._replace(damage="checksum mismatch"), id="damaged"),
        pytest.param(events_entry((event()[0] + raw_property(b"version", NOT_UTF8), b"x")), id="version-not-utf8"),
        pytest.param(events_entry((event()[0] + b"\x12\x02\xff\xfe", b"x")), id="key-not-utf8"),
    ],
)
def test_what_no_sequencer_wrote_is_refused(entry: Entry) -> None:
    with pytest.raises(ForeignWriter, match=f"message {entry.message_id.ledger}:{entry.message_id.entry}"):
        list(read_events(entry))
