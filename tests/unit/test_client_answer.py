"""Which of the replies is the answer, and what counts as a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sequencer.client.answer import MAX_REPLIES_KEPT, Attempts, read_replies
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.reply import Reply

FIRST, SECOND = MessageId(3, 1, 0, 0), MessageId(3, 2, 0, 5)


def accepted(position: MessageId, version: int = 4) -> Reply:
    return Reply("id", "accepted", str(position), (version, version), 9)


def rejected(position: MessageId) -> Reply:
    return Reply(
        "id", "rejected", str(position), reason="wrong_expected_version", expected_version=1, current_version=2
    )


def test_without_a_reply_there_is_no_answer() -> None:
    attempts = Attempts()
    assert attempts.answer is None
    attempts.stored(attempts.begin(), FIRST)
    assert attempts.answer is None


@pytest.mark.parametrize("reply", [accepted(FIRST), rejected(FIRST)])
def test_the_outcome_of_the_only_attempt_is_the_answer(reply: Reply) -> None:
    attempts = Attempts()
    attempts.stored(attempts.begin(), FIRST)
    attempts.replied(reply)
    assert attempts.answer == reply


@pytest.mark.parametrize("reply", [accepted(FIRST), rejected(FIRST)])
def test_a_reply_may_come_before_the_receipt(reply: Reply) -> None:
    attempts = Attempts()
    attempt = attempts.begin()
    attempts.replied(reply)
    assert attempts.answer is None
    attempts.stored(attempt, FIRST)
    assert attempts.answer == reply


def test_a_late_rejection_of_an_earlier_attempt_is_no_answer() -> None:
    attempts = Attempts()
    attempts.stored(attempts.begin(), FIRST)
    second = attempts.begin()
    attempts.replied(rejected(FIRST))
    assert attempts.answer is None
    attempts.stored(second, SECOND)
    assert attempts.answer is None
    attempts.replied(accepted(SECOND))
    assert attempts.answer == accepted(SECOND)


def test_the_rejection_of_the_last_attempt_is_final() -> None:
    attempts = Attempts()
    for position in (FIRST, SECOND):
        attempts.stored(attempts.begin(), position)
    attempts.replied(rejected(SECOND))
    assert attempts.answer == rejected(SECOND)


def test_the_acceptance_of_an_earlier_attempt_is_final() -> None:
    attempts = Attempts()
    attempts.stored(attempts.begin(), FIRST)
    attempts.begin()
    attempts.replied(accepted(FIRST))
    assert attempts.answer == accepted(FIRST)


def test_an_attempt_without_receipt_is_settled_by_the_next() -> None:
    attempts = Attempts()
    attempts.begin()
    attempts.replied(rejected(FIRST))
    attempts.stored(attempts.begin(), SECOND)
    assert attempts.answer is None
    attempts.replied(rejected(SECOND))
    assert attempts.answer == rejected(SECOND)


@pytest.mark.parametrize("reply", [accepted(SECOND), rejected(SECOND)])
def test_what_became_of_another_append_of_the_same_id_is_no_answer(reply: Reply) -> None:
    attempts = Attempts()
    attempts.stored(attempts.begin(), FIRST)
    attempts.replied(reply)
    assert attempts.answer is None


def test_a_flood_of_strange_replies_is_not_kept() -> None:
    attempts = Attempts()
    attempts.stored(attempts.begin(), FIRST)
    for number in range(10 * MAX_REPLIES_KEPT):
        attempts.replied(accepted(MessageId(99, number, 0, 0)))
    assert len(attempts._replies) == MAX_REPLIES_KEPT
    attempts.replied(accepted(FIRST))
    assert attempts.answer == accepted(FIRST)


def entry_of(*payloads: bytes, damage: str = "") -> Entry:
    heads = [SingleMessageMetadata(payload_size=len(payload)).SerializeToString() for payload in payloads]
    data = join_batch(list(zip(heads, payloads, strict=True)))
    metadata = MessageMetadata(producer_name="s", sequence_id=1, publish_time=1, num_messages_in_batch=len(payloads))
    return Entry(MessageId(0, 0), metadata, data, 0, (), damage)


GOOD: dict[str, Any] = {"id": "a", "outcome": "accepted", "submission": "1:2:0:0", "versions": [3, 4], "sequence": 7}


def test_replies_are_read() -> None:
    late = {
        "id": "b",
        "outcome": "rejected",
        "submission": "1:2:0:1",
        "reason": "wrong_expected_version",
        "expected_version": 1,
        "current_version": 2,
        "something": "of a later version",
    }
    replies = read_replies(entry_of(json.dumps(GOOD).encode(), json.dumps(late).encode()))
    assert replies == [
        Reply("a", "accepted", "1:2:0:0", (3, 4), 7),
        Reply("b", "rejected", "1:2:0:1", reason="wrong_expected_version", expected_version=1, current_version=2),
    ]


def test_a_reply_that_is_no_batch_is_read() -> None:
    payload = json.dumps(GOOD).encode()
    metadata = MessageMetadata(producer_name="s", sequence_id=1, publish_time=1)
    assert read_replies(Entry(MessageId(0, 0), metadata, payload, 0, (), "")) == [
        Reply("a", "accepted", "1:2:0:0", (3, 4), 7)
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({**GOOD, "outcome": "perhaps"}).encode(),
        json.dumps({**GOOD, "versions": None}).encode(),
        json.dumps({**GOOD, "versions": [1]}).encode(),
        json.dumps({**GOOD, "sequence": None}).encode(),
        json.dumps({**GOOD, "outcome": "rejected"}).encode(),
        json.dumps({**GOOD, "outcome": "rejected", "reason": "wrong_expected_version"}).encode(),
    ],
)
def test_what_is_no_reply_is_passed_over(payload: bytes) -> None:
    good = json.dumps(GOOD).encode()
    assert [reply.id for reply in read_replies(entry_of(payload, good))] == ["a"]


def test_a_broken_entry_holds_no_replies() -> None:
    entry = entry_of(json.dumps(GOOD).encode())
    assert read_replies(entry._replace(damage="the checksum does not match")) == []
    assert read_replies(entry._replace(payload=entry.payload[:-1])) == []
