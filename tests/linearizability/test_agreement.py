"""Clients and the log: what differs must be found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.linearizability.agreement import Event, disagreements, places
from tests.linearizability.histories import KEY, accepted, asked
from tests.linearizability.history import NOT_SENT, Appended, Conflict, Operation, Refused
from tests.linearizability.register import check

OPERATIONS = [
    asked("a", -1, (0, 1), accepted(0)),
    asked("b", None, (2, 3), accepted(1, 3), count=3),
    asked("c", 0, (4, 5), Conflict(3)),
    asked("d", None, (6, None), None),
    asked("e", None, (7, None), None),
]
LOG = [
    Event(KEY, 0, 2, 0, "a.0", "1:0:2:0"),
    Event(KEY, 1, 2, 1, "b.0", "1:0:2:1"),
    Event(KEY, 2, 2, 2, "b.1", "1:0:2:1"),
    Event(KEY, 3, 2, 3, "b.2", "1:0:2:1"),
    Event(KEY, 4, 2, 4, "d.0", "1:1:2:0"),
]


def wrong(operations: Sequence[Operation], log: Sequence[Event]) -> bool:
    """By either of the two judges."""
    unlike = [*disagreements(operations, log)]
    by_key = places(operations, log)
    return bool(unlike) or any(check([one for one in operations if one.key == key], by_key[key]) for key in by_key)


def test_they_agree() -> None:
    assert list(disagreements(OPERATIONS, LOG)) == []
    assert places(OPERATIONS, LOG) == {KEY: {("a.0",): 0, ("b.0", "b.1", "b.2"): 1, ("d.0",): 4}}
    assert not wrong(OPERATIONS, LOG)


@pytest.mark.parametrize("missing", range(5))
def test_an_event_is_missing(missing: int) -> None:
    log = LOG[:missing] + LOG[missing + 1 :]
    # Nobody was promised the last one.
    assert wrong(OPERATIONS, log) == (missing != 4)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("change", [{"version": 9}, {"sequence": 9}, {"key": "another"}, {"event_id": "x"}])
def test_an_event_is_another(at: int, change: dict[str, object]) -> None:
    log = [*LOG]
    log[at] = log[at]._replace(**change)  # type: ignore[arg-type]
    if at == 4 and "sequence" in change:
        return  # nobody was told
    assert wrong(OPERATIONS, log)


def test_an_event_comes_twice() -> None:
    assert wrong(OPERATIONS, [*LOG, LOG[4]._replace(version=5, sequence=5)])


def test_what_was_a_conflict_is_in() -> None:
    assert wrong(OPERATIONS, [*LOG, Event(KEY, 5, 2, 5, "c.0", "1:2:2:0")])


def test_a_list_is_from_two_submissions() -> None:
    assert wrong(OPERATIONS, [*LOG[:3], LOG[3]._replace(submission="1:0:2:2"), LOG[4]])


def test_nothing_may_be_refused() -> None:
    assert wrong([asked("a", -1, (0, 1), Refused("malformed"))], [])


def test_what_was_not_sent_is_not_in() -> None:
    not_sent = asked("a", -1, (0, 1), Refused(NOT_SENT))
    assert not wrong([not_sent], [])
    assert wrong([not_sent], LOG[:1])
    assert not wrong([not_sent, asked("a", -1, (2, 3), accepted(0))], LOG[:1])


def test_another_sequence() -> None:
    assert wrong([asked("a", -1, (0, 1), Appended(0, 0, 1, duplicate=False))], LOG[:1])
