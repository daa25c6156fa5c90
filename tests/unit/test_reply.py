"""What a publisher is told, and how it is packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from sequencer.decide import Outcome
from sequencer.event import (
    MAX_DETAIL_BYTES,
    MAX_KEY_BYTES,
    Accepted,
    Flawed,
    Forwarded,
    Reason,
    Rejected,
    Source,
    Submission,
)
from sequencer.plain import AcceptedRun
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.reply import (
    METADATA_BYTES,
    REPLY_BATCH_BYTES,
    Reply,
    ReplyRun,
    accepted_replies,
    decode_reply,
    reply_entries,
    reply_message,
    reply_runs,
)
from tests.judged import columns
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


# --- many ---


def run(keys: Sequence[str], sequence: int = 100, positions: Sequence[str] | None = None) -> AcceptedRun:
    """An accepted batch that has asked for replies."""
    asking = [msgspec.structs.replace(submission(key), source=SOURCE._replace(reply_to="till")) for key in keys]
    batch = msgspec.structs.replace(columns(asking), positions=positions)
    return AcceptedRun(batch, range(7, 7 + len(keys)), sequence)


def one_by_one(run: AcceptedRun) -> list[tuple[bytes, bytes]]:
    return [reply_message(outcome) for outcome in run.outcomes()]


def messages(data: bytes, count: int) -> list[tuple[bytes, bytes]]:
    return [(head, payload) for _, head, payload in split_batch(data, count)]


@pytest.mark.parametrize(
    "keys", [["k"], ["k", "a" * 127, "a" * 128, "k" * 1024], ["k", "käse \U0001f600 \x00", "ü" * 512]]
)
def test_of_a_run_as_one_by_one(keys: list[str]) -> None:
    for positions in (None, [f"8:{number}:0:" for number in range(len(keys))]):
        accepted = run(keys, positions=positions)
        assert messages(accepted_replies(accepted), len(keys)) == one_by_one(accepted)


def test_of_a_run_with_replies_of_any_size() -> None:
    # Of as many bytes as one byte can tell, and of more.
    for digits in range(19):
        accepted = run(["k"] * 3, 10**digits)
        assert messages(accepted_replies(accepted), 3) == one_by_one(accepted)
    largest = 2**63 - 2
    source = Source(":".join([str(largest)] * 2 + ["2147483647", ""]), 0, b"", None, "till")
    batch = msgspec.structs.replace(run(["k"]).batch, source=source, batch_indexes=[9_999])
    accepted = AcceptedRun(batch, [largest], largest)
    assert messages(accepted_replies(accepted), 1) == one_by_one(accepted)


def test_only_those_who_ask_are_told_in_order() -> None:
    asking = submission(reply_to="till")
    outcomes: list[Outcome] = [
        Accepted(asking, 4, 1),
        Accepted(submission(), 4, 2),
        Forwarded(asking, 1),
        Rejected(submission(reply_to="office"), Reason.WRONG_EXPECTED_VERSION),
        run(["a", "b"], 3),
        AcceptedRun(columns([submission(), submission()]), [1, 2], 5),
    ]
    runs = list(reply_runs(outcomes, MAX_MESSAGE_BYTES))
    assert [(topic, replies) for topic, _, replies in runs] == [("till", 1), ("office", 1), ("till", 2)]
    told = [json.loads(payload) for _, data, count in runs for _, payload in messages(data, count)]
    assert [reply.get("sequence") for reply in told] == [1, None, 3, 4]


# --- packing ---


def unpacked(runs: list[ReplyRun], limit: int) -> list[list[bytes]]:
    """The payloads, by entry; every entry is small enough and says what is in it."""
    entries = []
    for metadata, payload, count in reply_entries(runs, limit):
        assert len(metadata) + len(payload) <= limit
        said = MessageMetadata()
        said.MergeFromString(metadata)
        assert (said.num_messages_in_batch, said.uncompressed_size) == (count, len(payload))
        entries.append([body for _, _, body in split_batch(payload, count)])
    return entries


def test_one_batch_where_it_fits() -> None:
    accepted = run(["k"] * 1000)
    singles = [Accepted(submission(reply_to="till"), version, version) for version in range(10)]
    runs = list(reply_runs([accepted, *singles], MAX_MESSAGE_BYTES))
    expected = [payload for _, payload in [*one_by_one(accepted), *map(reply_message, singles)]]
    assert unpacked(runs, MAX_MESSAGE_BYTES) == [expected]
    assert unpacked([], MAX_MESSAGE_BYTES) == []


@pytest.mark.parametrize("limit", [MAX_MESSAGE_BYTES, METADATA_BYTES + 10_000])
def test_as_many_batches_as_the_size_asks_for(limit: int) -> None:
    accepted = run(["k" * 1000] * 2000)
    singles = [Accepted(submission("k" * 1000, reply_to="till"), version, version) for version in range(1000)]
    entries = unpacked(list(reply_runs([accepted, *singles], limit)), limit)
    replies = [*one_by_one(accepted), *map(reply_message, singles)]
    assert [payload for entry in entries for payload in entry] == [payload for _, payload in replies]
    size = sum(len(head) + len(payload) + 4 for head, payload in replies)
    # Halves of a run fill an entry by half at the least.
    assert len(entries) <= 2 * (size // (min(limit - METADATA_BYTES, REPLY_BATCH_BYTES) - 2000) + 1)
