"""The model that judges the integration tests must itself be right: the contract's examples, worked out by hand."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencer.event import canonical_partition
from sequencer.pulsar.frames import MessageId
from tests.model import (
    ATTRIBUTES,
    MAX_BATCH_MESSAGES,
    MAX_LIST_EVENTS,
    MAX_LISTED_EVENTS,
    Message,
    Outcome,
    envelope,
    home,
    predict,
)
from tests.publishing import Draft, Workload, binary, listed, structured

FIRST, SECOND, THIRD, FOURTH = (UUID(int=number) for number in (1, 2, 3, 4))
LIST = UUID(int=99)


def stored(*drafts: Draft) -> list[Message]:
    """What the official client would read of them, unbatched."""
    return [
        Message(
            MessageId(1, entry, 0, -1),
            draft.key or "",
            dict(draft.properties),
            draft.payload or b"",
            draft.payload is None,
        )
        for entry, draft in enumerate(drafts)
    ]


def outcomes(*drafts: Draft) -> list[tuple[object, ...]]:
    """Reason, version, sequence, current version, accepted version."""
    return [
        (o.reason, o.version, o.sequence, o.current_version, o.accepted_version) for o in predict(0, 1, stored(*drafts))
    ]


def test_the_bank_account() -> None:
    withdrawals = UUID(int=10), UUID(int=11)
    assert outcomes(
        structured("account", FIRST, -1),
        structured("account", SECOND, 0),
        structured("account", withdrawals[0], 1),
        structured("account", withdrawals[1], 1),
        structured("account", THIRD),
        structured("account", withdrawals[0], 1),
    ) == [
        ("", 0, 0, None, None),
        ("", 1, 1, None, None),
        ("", 2, 2, None, None),
        ("wrong_expected_version", None, None, 2, None),
        ("", 3, 3, None, None),
        ("duplicate", None, None, 3, 2),
    ]


def test_the_same_id_with_a_newer_matching_version_is_a_new_event() -> None:
    assert outcomes(binary("a", FIRST, -1, b"x"), binary("a", FIRST, 0, b"x"), binary("a", FIRST, None, b"x")) == [
        ("", 0, 0, None, None),
        ("", 1, 1, None, None),
        ("duplicate", None, None, 1, 1),
    ]


def test_the_same_id_in_another_aggregate_is_another_event() -> None:
    assert [o[0] for o in outcomes(structured("a", FIRST), structured("b", FIRST))] == ["", ""]


@pytest.mark.parametrize("version", ["1", 1.5, 1.0, True, -2, 2**53 + 1])
def test_no_such_version(version: object) -> None:
    assert outcomes(structured("a", FIRST, version))[0][0] == "malformed"


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (structured("", FIRST), "missing_key"),
        (Draft("a", b""), "malformed"),
        (Draft("a", None), "malformed"),
        (Draft("a", b"{"), "malformed"),
        (binary("a", "x", None, b"x"), "malformed"),
        (binary("a", FIRST, "1.0", b"x"), "malformed"),
        (binary("a", FIRST, None, b""), "malformed"),
        (binary("a", FIRST, None, bytes(5 * 2**20)), "too_large"),
        (structured("a", FIRST, None), ""),
        (structured("a", FIRST, 2**53), "wrong_expected_version"),
    ],
)
def test_reasons(draft: Draft, reason: str) -> None:
    assert outcomes(draft)[0][0] == reason


def test_the_events_of_a_list_get_consecutive_versions() -> None:
    drafts = [
        structured("a", FIRST, -1),
        listed("a", LIST, [SECOND, THIRD], 0),
        structured("b", FIRST),
        structured("a", FOURTH, 2),
    ]
    assert [(o.version, o.sequence, o.messages) for o in predict(0, 1, stored(*drafts))] == [
        (0, 0, 1),
        (1, 1, 2),
        (0, 3, 1),
        (3, 4, 1),
    ]


def test_a_list_is_always_looked_up() -> None:
    assert outcomes(
        listed("a", LIST, [FIRST, SECOND], -1),
        listed("a", LIST, [FIRST, SECOND], -1),
        listed("a", LIST, [SECOND, FIRST]),
        listed("a", LIST, [SECOND], 1),
        listed("a", LIST, [THIRD, SECOND], 1),
        listed("a", LIST, [THIRD, SECOND], 7),
        listed("a", LIST, [THIRD, FOURTH], 0),
        structured("a", SECOND, 0),
        structured("a", SECOND, 1),
        listed("b", LIST, [FIRST, SECOND]),
        structured("a", LIST),
    ) == [
        ("", 0, 0, None, None),
        ("duplicate", None, None, 1, 0),
        ("duplicate", None, None, 1, 1),
        ("duplicate", None, None, 1, 1),
        ("conflicting_ids", None, None, 1, None),
        ("conflicting_ids", None, None, 1, None),
        ("wrong_expected_version", None, None, 1, None),
        ("duplicate", None, None, 1, 1),
        ("", 2, 2, None, None),
        ("", 0, 3, None, None),
        ("", 3, 5, None, None),
    ]


def payload(text: str) -> Draft:
    return Draft("a", text.encode())


@pytest.mark.parametrize(
    "draft",
    [
        listed("a", LIST, []),
        listed("a", LIST, [UUID(int=number) for number in range(MAX_LIST_EVENTS + 1)]),
        listed("a", LIST, [FIRST, SECOND, FIRST]),
        listed("a", LIST, [str(UUID(int=0xA)), str(UUID(int=0xA)).upper()]),
        listed("a", LIST, [FIRST, "no id"]),
        listed("a", "no id", [FIRST]),
        listed("a", LIST, [FIRST], -2),
        *(listed("a", LIST, [FIRST], **{name: 7}) for name in ATTRIBUTES),
        payload(f'{{"id": "{LIST}", "data": 1, "events": [{{"id": "{FIRST}", "data": 1}}]}}'),
        payload(f'{{"id": "{LIST}"}}'),
        payload(f'{{"id": "{LIST}", "events": null}}'),
        payload(f'{{"id": "{LIST}", "events": {{}}}}'),
        payload(f'{{"id": "{LIST}", "events": [7]}}'),
        payload(f'{{"id": "{LIST}", "events": [{{"id": "{FIRST}"}}]}}'),
        payload(f'{{"id": "{LIST}", "events": [{{"data": 1}}]}}'),
    ],
)
def test_no_such_list(draft: Draft) -> None:
    assert outcomes(draft)[0][0] == "malformed"


def test_what_an_event_of_a_list_says_of_itself() -> None:
    [message] = stored(listed("a", LIST, [FIRST], type="t", subject=None, more="m"))
    [member] = envelope(message).members
    assert member.attributes == {"type": "t"}
    assert [o.reason for o in predict(0, 1, [message])] == [""]


def test_in_binary_mode_there_are_no_lists() -> None:
    draft = listed("a", LIST, [FIRST, FIRST])._replace(properties={"id": str(SECOND)})
    assert outcomes(draft) == [("", 0, 0, None, None)]


def test_the_lists_of_a_batch_beyond_the_limit_are_too_large() -> None:
    whole = [UUID(int=number) for number in range(MAX_LIST_EVENTS)]
    full = MAX_LISTED_EVENTS // MAX_LIST_EVENTS
    drafts = [listed(f"{n}", LIST, whole) for n in range(full - 1)]
    drafts += [structured("a", FIRST), listed("b", LIST, whole[1:]), listed("c", LIST, [FIRST, SECOND])]
    drafts += [listed("d", LIST, [FIRST]), listed("e", LIST, [FIRST]), binary("f", FIRST, None, b"x")]
    found = stored(*drafts)
    assert {o.reason for o in predict(0, 1, found)} == {""}, "each in an entry of its own"
    batch = [message._replace(message_id=MessageId(1, 0, 0, index)) for index, message in enumerate(found)]
    reasons = [o.reason for o in predict(0, 1, batch)]
    assert reasons == [""] * (full + 1) + ["too_large", "", "too_large", ""], "what has room finds it"


def test_each_chunk_has_an_outcome() -> None:
    chunks = (MessageId(1, 0, 0, -1), MessageId(1, 1, 0, -1))
    message = stored(structured("a", FIRST))[0]._replace(message_id=chunks[-1], chunks=chunks)
    assert list(predict(0, 1, [message])) == [Outcome(str(chunk), "chunked") for chunk in chunks]


def test_a_batch_that_is_too_long_has_one_outcome() -> None:
    [message] = stored(structured("a", FIRST))
    batch = [message._replace(message_id=MessageId(1, 0, 0, index)) for index in range(MAX_BATCH_MESSAGES + 1)]
    assert list(predict(0, 1, batch)) == [Outcome("1:0:0:-1", "too_large")]


def test_a_key_of_another_partition_has_its_outcome_there() -> None:
    keys = [f"key-{number}" for number in range(20)]
    messages = stored(*(structured(key, FIRST) for key in keys))
    predicted = list(predict(1, 3, messages))
    assert [o.submission for o in predicted] == [str(m.message_id) for m in messages if home(m.key, 3) == 1]
    assert {o.reason for o in predicted} == {""}


def test_a_key_of_another_partition_is_forwarded_only_once() -> None:
    keys = [f"key-{number}" for number in range(20)]
    copies = [
        draft._replace(properties={"forwarded_from": "1:0:0:0"}) for draft in (structured(k, FIRST) for k in keys)
    ]
    reasons = [o.reason for o in predict(1, 3, stored(*copies))]
    assert reasons == ["" if home(key, 3) == 1 else "misrouted" for key in keys]


@pytest.mark.parametrize(("key", "java"), [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", -(2**31))])
def test_home_is_by_javas_hash(key: str, java: int) -> None:
    assert home(key, 1000) == (java & 0x7FFFFFFF) % 1000


@given(st.text(), st.integers(1, 1024))
def test_home_is_where_the_sequencer_expects_it(key: str, partitions: int) -> None:
    assert home(key, partitions) == canonical_partition(key, partitions)


def test_a_workload_has_the_share_of_conflicts_that_was_asked_for() -> None:
    found = [o.reason for o in predict(0, 1, stored(*Workload(7, aggregates=50, conflicts=0.05).take(5000)))]
    assert 0.03 < 1 - found.count("") / len(found) < 0.07
    assert set(found) == {"", "wrong_expected_version", "duplicate"}


def test_lists_in_a_workload_are_in_conflict_as_often_as_single_events() -> None:
    workload = Workload(7, aggregates=50, conflicts=0.1, lists=0.5)
    found = list(predict(0, 1, stored(*workload.take(5000))))
    reasons = [o.reason for o in found]
    assert 0.07 < 1 - reasons.count("") / len(reasons) < 0.13
    assert set(reasons) == {"", "wrong_expected_version", "duplicate", "conflicting_ids"}
    assert {o.messages for o in found} == {1, 2, 3, 4, 5}
