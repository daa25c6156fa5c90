"""The model that judges the integration tests must itself be right: the contract's examples, worked out by hand."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencer.event import canonical_partition
from sequencer.pulsar.frames import MessageId
from tests.model import MAX_BATCH_MESSAGES, Message, Outcome, home, predict
from tests.publishing import Draft, Workload, binary, structured

FIRST, SECOND, THIRD = (UUID(int=number) for number in (1, 2, 3))


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
