"""Entries as the verifier's records: whatever stands in a topic, it is read."""

from __future__ import annotations

from uuid import UUID

import pytest

from sequencer.event import Accepted as AcceptedOutcome
from sequencer.event import Forwarded, Reason
from sequencer.event import Rejected as RejectedOutcome
from sequencer.packing import Messages, accepted_messages, forwarded_message, pack
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.verify.read import accepted_records, rejected_records, submitted_records
from sequencer.verify.verifier import UNREADABLE, Accepted, Rejected, Submitted
from tests.judged import flawed, rejected_message, rejection, submission
from tests.submitted import (
    DELIVERED_AT,
    ID,
    KEY,
    MAX_MESSAGE_BYTES,
    POSITION,
    batch,
    delivered,
    encrypted,
    event_id,
    listed,
    message,
    single,
    structured,
)

EVENT_ID = UUID(ID).bytes
SUBMISSION_AT = f"{POSITION.ledger}:{POSITION.entry}:{POSITION.partition}"


def outcome(messages: Messages) -> Entry:
    (output,) = pack([messages], MAX_MESSAGE_BYTES)
    return delivered(output, publish_time=77)


def of_name(name: str) -> bytes:
    return UUID(event_id(name)).bytes


def test_submissions_of_a_batch_and_of_a_single_message() -> None:
    read = list(
        submitted_records(
            batch([message(structured(version=3)), message(structured(version=None)), message(b"no event")])
        )
    )
    assert read == [
        Submitted(POSITION._replace(batch_index=0), KEY, EVENT_ID, 3),
        Submitted(POSITION._replace(batch_index=1), KEY, EVENT_ID, None),
        Submitted(POSITION._replace(batch_index=2), KEY, None, None),
    ]
    assert list(submitted_records(single(b"bytes", properties={"id": ID, "version": "-1"}))) == [
        Submitted(POSITION._replace(batch_index=-1), KEY, EVENT_ID, -1)
    ]
    (keyless,) = submitted_records(single(b"bytes", key=None))
    assert keyless.key is None


@pytest.mark.parametrize("broken", [batch([message(b"x")], count=7), encrypted(batch([message(b"x")]))])
def test_an_entry_that_cannot_be_opened_is_one_submission(broken: Entry) -> None:
    (read,) = submitted_records(broken)
    assert read == Submitted(POSITION._replace(batch_index=-1), None, None, None)


def test_a_list_is_one_submission_with_the_ids_of_its_events() -> None:
    read = list(
        submitted_records(batch([message(listed("one", "two", version=3)), message(listed("one", version="3"))]))
    )
    assert read == [
        Submitted(POSITION._replace(batch_index=0), KEY, EVENT_ID, 3, None, (of_name("one"), of_name("two"))),
        Submitted(POSITION._replace(batch_index=1), KEY, None, None),
    ]


def test_the_events_of_a_list_are_events_of_one_submission() -> None:
    judged = submission(single(listed("one", "two")))
    read = list(accepted_records(outcome(accepted_messages(AcceptedOutcome(judged, 4, 9)))))
    assert read == [
        Accepted(DELIVERED_AT._replace(batch_index=n), KEY, of_name(name), 4 + n, 9 + n, f"{SUBMISSION_AT}:-1", 77)
        for n, name in enumerate(("one", "two"))
    ]
    conflict = RejectedOutcome(judged, Reason.CONFLICTING_IDS, "", None, 6)
    (rejected,) = rejected_records(outcome(rejected_message(conflict)))
    assert (rejected.event_id, rejected.reason, rejected.current_version) == (EVENT_ID, "conflicting_ids", 6)


def test_a_forwarded_message_names_its_original() -> None:
    original = submission(single(structured(version=0)))
    copy = outcome(forwarded_message(Forwarded(original, 1)))
    (read,) = submitted_records(copy)
    assert read.forwarded_from == f"{SUBMISSION_AT}:-1"
    assert (read.key, read.event_id, read.expected_version) == (KEY, EVENT_ID, 0)
    (mentioned,) = submitted_records(single(b"x", properties={"id": ID, "was": "forwarded_from"}))
    assert mentioned.forwarded_from is None


def test_outcomes_are_read_as_they_were_written() -> None:
    judged = submission(single(structured(version=3)))
    accepted = outcome(accepted_messages(AcceptedOutcome(judged, 4, 9)))
    at = DELIVERED_AT._replace(batch_index=0)
    assert list(accepted_records(accepted)) == [Accepted(at, KEY, EVENT_ID, 4, 9, f"{SUBMISSION_AT}:-1", 77)]
    rejected = outcome(rejected_message(RejectedOutcome(judged, Reason.DUPLICATE, "", 3, 6, 2)))
    assert list(rejected_records(rejected)) == [
        Rejected(at, KEY, "duplicate", f"{SUBMISSION_AT}:-1", EVENT_ID, 3, 6, 2, published_at_ms=77)
    ]
    nothing_known = outcome(rejection(flawed(single(b"x", key=None))))
    assert list(rejected_records(nothing_known)) == [
        Rejected(at, None, "missing_key", f"{SUBMISSION_AT}:-1", published_at_ms=77)
    ]


@pytest.mark.parametrize("number", ["", "one", "1.0", "-", "9" * 30, "²"])
def test_what_is_no_number_is_unreadable(number: str) -> None:
    entry = single(b"x", properties={"id": "no id", "version": number, "sequence": number})
    (read,) = accepted_records(entry)
    assert (read.version, read.sequence, read.event_id, read.submission) == (UNREADABLE, UNREADABLE, None, "")
    (rejected,) = rejected_records(single(b"x", properties={"current_version": number}))
    assert rejected.current_version == UNREADABLE
    assert rejected.accepted_version is None


@pytest.mark.parametrize("broken", [batch([message(b"x")], count=7), single(b"")._replace(damage="checksum")])
def test_an_outcome_that_cannot_be_opened_says_nothing(broken: Entry) -> None:
    at = broken.message_id._replace(batch_index=-1)
    assert list(accepted_records(broken)) == [Accepted(at, None, None, UNREADABLE, UNREADABLE, "", 1_700_000_000_000)]
    assert list(rejected_records(broken)) == [Rejected(at, None, "", "", published_at_ms=1_700_000_000_000)]


def test_a_key_that_is_not_utf_8_is_the_same_on_both_sides() -> None:
    broken = message(structured(version=0), key="key")
    head = broken[0].replace(b"key", b"k\xffy")
    (read,) = submitted_records(batch([(head, broken[1])]))
    (rejected,) = rejected_records(batch([(head, broken[1])]))
    assert read.key == rejected.key
    assert read.key is not None
    assert read.event_id is None
    assert read.message_id == MessageId(*POSITION[:3], 0)
