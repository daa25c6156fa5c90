"""What a publisher is told, and how it is packed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sequencer.event import MAX_DETAIL_BYTES, MAX_KEY_BYTES, Accepted, Flawed, Reason, Rejected, Source, Submission
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.reply import METADATA_BYTES, REPLY_BATCH_BYTES, Reply, decode_reply, reply_entries, reply_message
from tests.submitted import ID, KEY, MAX_MESSAGE_BYTES, message

SOURCE = Source("8:22:3:", 0, b"", None)


def submission(key: str = KEY, events: int | None = None, **fields: Any) -> Submission:
    """A submission; with `events` a list of so many."""
    head, payload = message(b"{}", key)
    one = Submission(key, b"i" * 16, ID, 3, head, None, payload, SOURCE, 5, **fields)
    return one if events is None else msgspec.structs.replace(one, several=(one,) * events)


def flawed(head: bytes, id_text: str = "") -> Flawed:
    return Flawed(Reason.MALFORMED, "no", id_text, head, None, b"", SOURCE, -1)


def told(outcome: Accepted | Rejected) -> dict[str, Any]:
    """The JSON of the reply."""
    decoded = json.loads(reply_message(outcome)[1])
    assert isinstance(decoded, dict)
    return decoded


def test_accepted() -> None:
    assert told(Accepted(submission(), 4, 1207)) == {
        "id": ID,
        "outcome": "accepted",
        "submission": "8:22:3:5",
        "versions": [4, 4],
        "sequence": 1207,
    }


def test_the_first_event_ever() -> None:
    assert told(Accepted(submission(), 0, 0))["versions"] == [0, 0]
    assert told(Accepted(submission(), 0, 0))["sequence"] == 0


@pytest.mark.parametrize(("events", "versions"), [(1, [4, 4]), (3, [4, 6])])
def test_a_list_became_several_versions(events: int, versions: list[int]) -> None:
    reply = told(Accepted(submission(events=events), 4, 1207))
    assert (reply["versions"], reply["sequence"]) == (versions, 1207)


def test_duplicate() -> None:
    detail = "accepted before as version 0"
    repeated = Rejected(submission(), Reason.DUPLICATE, detail, 3, 9, accepted=0, accepted_last=2, accepted_sequence=0)
    assert told(repeated) == {
        "id": ID,
        "outcome": "duplicate",
        "submission": "8:22:3:5",
        "versions": [0, 2],
        "sequence": 0,
    }


def test_rejected() -> None:
    refused = Rejected(submission(), Reason.WRONG_EXPECTED_VERSION, "expected 3, no such aggregate", 3, -1)
    assert told(refused) == {
        "id": ID,
        "outcome": "rejected",
        "submission": "8:22:3:5",
        "reason": "wrong_expected_version",
        "detail": "expected 3, no such aggregate",
        "expected_version": 3,
        "current_version": -1,
    }


def test_what_is_unknown_is_absent() -> None:
    assert told(Rejected(flawed(message(b"x", None)[0]), Reason.MISSING_KEY)) == {
        "id": "",
        "outcome": "rejected",
        "submission": "8:22:3:-1",
        "reason": "missing_key",
    }


def test_a_long_detail_is_cut_between_characters() -> None:
    reply = told(Rejected(submission(), Reason.MALFORMED, "x" + "ü" * MAX_DETAIL_BYTES))
    assert reply["detail"] == "x" + "ü" * ((MAX_DETAIL_BYTES - 1) // 2)


@pytest.mark.parametrize("key", ["k", "käse \U0001f600 \x00", "a" * 127, "a" * 128, "a" * 1024, "ü" * 512])
def test_the_key_is_the_aggregate(key: str) -> None:
    for outcome in (Accepted(submission(key), 0, 0), Rejected(flawed(message(b"x", key)[0]), Reason.MALFORMED)):
        head, payload = reply_message(outcome)
        assert SingleMessageMetadata.FromString(head) == SingleMessageMetadata(
            partition_key=key, payload_size=len(payload)
        )


def test_a_message_without_a_readable_key_gets_a_reply_without_one() -> None:
    not_utf8 = SingleMessageMetadata(payload_size=1).SerializeToString() + b"\x12\x02\xff\xfe"
    for head in (message(b"x", None)[0], not_utf8, message(b"x", "k" * (MAX_KEY_BYTES + 1))[0]):
        single = SingleMessageMetadata.FromString(reply_message(Rejected(flawed(head), Reason.MISSING_KEY))[0])
        assert not single.HasField("partition_key")
        assert single.payload_size > 0


def test_lengths_of_any_size() -> None:
    # A payload size of three bytes on the wire: nothing that is sent is so long, but nothing says so here.
    head, payload = reply_message(Accepted(msgspec.structs.replace(submission(), id_text="x" * 20_000), 0, 0))
    assert SingleMessageMetadata.FromString(head).payload_size == len(payload) > 2**14


def test_a_reply_is_read_back_and_may_grow() -> None:
    payload = reply_message(Accepted(submission(events=2), 4, 1207))[1]
    assert decode_reply(payload) == Reply(ID, "accepted", "8:22:3:5", (4, 5), 1207)
    assert decode_reply(payload[:-1] + b',"of a later version":[]}') == decode_reply(payload)
    with pytest.raises(msgspec.ValidationError):
        decode_reply(b'{"id":"","outcome":"postponed","submission":""}')


# --- packing ---


def unpacked(messages: list[tuple[bytes, bytes]], limit: int) -> list[list[bytes]]:
    """The payloads, by entry; every entry is small enough and says what is in it."""
    entries = []
    for metadata, payload, count in reply_entries(messages, limit):
        assert len(metadata) + len(payload) <= limit
        said = MessageMetadata()
        said.MergeFromString(metadata)
        assert (said.num_messages_in_batch, said.uncompressed_size) == (count, len(payload))
        entries.append([body for _, _, body in split_batch(payload, count)])
    return entries


def test_one_batch_where_it_fits() -> None:
    messages = [reply_message(Accepted(submission(), version, version)) for version in range(1000)]
    assert unpacked(messages, MAX_MESSAGE_BYTES) == [[payload for _, payload in messages]]
    assert unpacked([], MAX_MESSAGE_BYTES) == []


@pytest.mark.parametrize("limit", [MAX_MESSAGE_BYTES, METADATA_BYTES + 10_000])
def test_as_many_batches_as_the_size_asks_for(limit: int) -> None:
    messages = [reply_message(Accepted(submission("k" * 1000), version, version)) for version in range(2000)]
    entries = unpacked(messages, limit)
    assert [payload for entry in entries for payload in entry] == [payload for _, payload in messages]
    size = sum(len(head) + len(payload) + 4 for head, payload in messages)
    assert len(entries) <= size // (min(limit - METADATA_BYTES, REPLY_BATCH_BYTES) - 2000) + 1
