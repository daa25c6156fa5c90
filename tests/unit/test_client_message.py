"""An append on the wire: what the sequencer reads out of it is what was asked for."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from sequencer.client.message import Message, batch_of, checked_id, message_of
from sequencer.client.values import ANY, ATTRIBUTES, JSON, NO_AGGREGATE, AnyVersion, Codec, NewEvent
from sequencer.event import MAX_VERSION, Submission
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.judged import read_all

REPLY_TO = "non-persistent://public/default-replies/x"
A, B = "0f8fad5b-d9cb-469f-a165-70867728950e", "7C9E6679-7425-40DE-944B-E07FC1F90AE7"
ALL = {name: f"the {name}" for name in ATTRIBUTES}


def message(*events: NewEvent[Any], expected: int | AnyVersion = ANY, codec: Codec[Any] = JSON) -> Message:
    return message_of("account-ß", events, expected, codec)


def submissions(*messages: Message) -> list[Submission]:
    """What the sequencer makes of an entry that holds them."""
    metadata, payload = batch_of(messages, REPLY_TO)
    complete = MessageMetadata.FromString(metadata)
    complete.producer_name, complete.sequence_id, complete.publish_time = "p", 1, 1
    read = read_all(Entry(MessageId(4, 5, 0), complete, payload, 0, (), ""))
    for submission in read:
        assert isinstance(submission, Submission), submission
    return [submission for submission in read if isinstance(submission, Submission)]


@pytest.mark.parametrize(("expected", "meant"), [(ANY, None), (NO_AGGREGATE, -1), (0, 0), (MAX_VERSION, MAX_VERSION)])
def test_a_single_event(expected: int | AnyVersion, meant: int | None) -> None:
    sent = message(NewEvent({"n": 1}, id=A, **ALL), expected=expected)
    assert (sent.id_text, sent.ids) == (A, (A,))
    (read,) = submissions(sent)
    assert (read.key, read.id_text, read.expected, read.reply_to) == ("account-ß", A, meant, REPLY_TO)
    assert read.several is None
    assert json.loads(read.payload)["data"] == {"n": 1}
    properties = {field.key: field.value for field in SingleMessageMetadata.FromString(sent.head).properties}
    assert properties == ALL, "where the answer goes is said once for the batch, and not stored with every event"


def test_several_events_have_an_id_together_that_is_new_each_time() -> None:
    events = (NewEvent({"n": 1}, id=A, **ALL), NewEvent("ü", id=UUID(B)))
    sent, again = message(*events, expected=3), message(*events, expected=3)
    assert sent.ids == again.ids == (A, B.lower())
    assert sent.id_text != again.id_text
    (read,) = submissions(sent)
    assert (read.id_text, read.expected, read.reply_to) == (sent.id_text, 3, REPLY_TO)
    assert read.several is not None
    assert [member.id_text for member in read.several] == list(sent.ids)
    assert [json.loads(member.payload)["data"] for member in read.several] == [{"n": 1}, "ü"]
    heads = [SingleMessageMetadata.FromString(member.head) for member in read.several]
    properties = [{field.key: field.value for field in head.properties} for head in heads]
    assert {name: properties[0].get(name) for name in ATTRIBUTES} == ALL
    assert not set(ATTRIBUTES) & set(properties[1])


def test_messages_of_one_batch_stay_apart() -> None:
    read = submissions(message(NewEvent(1)), message(NewEvent(2), NewEvent(3)), message(NewEvent(4)))
    assert [submission.batch_index for submission in read] == [0, 1, 2]
    assert [submission.several is None for submission in read] == [True, False, True]


def test_an_id_is_made_up_where_there_is_none() -> None:
    first, second = message(NewEvent(1)), message(NewEvent(1))
    assert first.ids != second.ids
    assert checked_id(first.ids[0]) == first.ids[0]


@pytest.mark.parametrize("text", ["", "x", A[:-1], A.replace("-", ""), f" {A}", f"{{{A}}}"])
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        message(NewEvent(1, id=text))


def test_two_spellings_of_an_id_are_the_same_id() -> None:
    with pytest.raises(ValueError, match="same id"):
        message(NewEvent(1, id=B), NewEvent(2, id=B.lower()))


@pytest.mark.parametrize("expected", [-2, MAX_VERSION + 1, True, 1.0, None, "1"])
def test_what_is_no_expected_version_is_refused(expected: Any) -> None:
    with pytest.raises(ValueError, match="not an expected version"):
        message(NewEvent(1), expected=expected)


@pytest.mark.parametrize("given", [b"", b"{", b'1,"data":2', b'"\xff"', b"nonsense", b"[" * 100_000])
def test_a_codec_that_gives_no_json_is_refused(given: bytes) -> None:
    codec = Codec[Any](lambda _: given, bytes)
    with pytest.raises(ValueError, match="not JSON"):
        message(NewEvent(1), codec=codec)
    with pytest.raises(ValueError, match="not JSON"):
        message(NewEvent(1), NewEvent(2), codec=codec)
