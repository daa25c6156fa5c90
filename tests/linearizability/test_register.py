"""The checker: what it must let pass, what it must catch, and that it agrees with trying every order."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.linearizability.histories import accepted, asked, can_be, changed, duplicate, made
from tests.linearizability.history import Appended, Conflict, Ids, Operation, Refused
from tests.linearizability.register import check

Log = dict[Ids, int]

GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [asked("a", -1, (0, 1), accepted(0)), asked("b", 0, (2, 3), accepted(1))],
    "answers overtake each other": [asked("a", None, (0, 9), accepted(1)), asked("b", None, (1, 8), accepted(0))],
    "a list": [asked("a", -1, (0, 1), accepted(0, 2), count=3), asked("b", 2, (2, 3), accepted(3))],
    "a conflict in between": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", 5, (2, 9), Conflict(0)),
        asked("c", None, (3, 4), accepted(1)),
    ],
    "a conflict with what is not answered yet": [
        asked("a", None, (0, 9), accepted(0)),
        asked("b", -1, (1, 2), Conflict(0)),
    ],
    "an unknown that fills a gap": [asked("a", None, (0, None), None), asked("b", None, (1, 2), accepted(1))],
    "an unknown that never was": [asked("a", None, (0, None), None), asked("b", -1, (1, 2), accepted(0))],
    "an unknown that came late": [
        asked("a", 0, (0, None), None),
        asked("b", -1, (1, 2), accepted(0)),
        asked("c", 1, (5, 6), accepted(2)),
    ],
    "an unknown, refused again, and in after all": [
        asked("a", 1, (0, None), None),
        asked("a", 1, (1, 2), Conflict(-1)),
        asked("b", -1, (3, 4), accepted(0, 1), count=2),
        asked("c", 2, (5, 6), accepted(3)),
    ],
    "the unknown of two that has the right size": [
        asked("a", None, (0, None), None),
        asked("b", None, (0, None), None, count=2),
        asked("c", None, (1, 2), accepted(2)),
    ],
    "an unknown settled as a duplicate": [
        asked("a", None, (0, None), None),
        asked("a", None, (5, 6), duplicate(0)),
    ],
    "its own second copy": [asked("a", None, (0, 5), duplicate(0))],
    "refused whatever the version": [asked("a", None, (0, 1), Refused("too_large"))],
}

BAD: dict[str, list[Operation]] = {
    "two at one version": [asked("a", None, (0, 9), accepted(0)), asked("b", None, (1, 8), accepted(0))],
    "lists that overlap": [
        asked("a", None, (0, 9), accepted(0, 2), count=3),
        asked("b", None, (1, 8), accepted(2, 3), count=2),
    ],
    "a gap that nothing fills": [asked("a", None, (0, 1), accepted(0)), asked("b", None, (2, 3), accepted(2))],
    "a gap that the unknown is too large for": [
        asked("a", None, (0, None), None, count=2),
        asked("b", None, (2, 3), accepted(1)),
    ],
    "a gap that the unknown came too late for": [
        asked("b", None, (2, 3), accepted(1)),
        asked("a", None, (4, None), None),
    ],
    "a gap that the unknown expects another version for": [
        asked("a", 3, (0, None), None),
        asked("b", None, (2, 3), accepted(1)),
    ],
    "one unknown for two gaps": [
        asked("a", None, (0, None), None),
        asked("b", None, (2, 3), accepted(1)),
        asked("c", None, (4, 5), accepted(3)),
    ],
    "a conflict with the past": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", None, (2, 3), accepted(1)),
        asked("c", 5, (4, 5), Conflict(0)),
    ],
    "a conflict with the future": [asked("b", 5, (0, 1), Conflict(0)), asked("a", None, (2, 3), accepted(0))],
    "a conflict with what it expected": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", 0, (2, 3), Conflict(0)),
    ],
    "a conflict though any was right": [asked("b", None, (2, 3), Conflict(-1))],
    "a conflict of what is in": [
        asked("a", -1, (0, 1), accepted(0)),
        asked("a", -1, (2, 3), Conflict(0)),
    ],
    "conflicts that saw the versions in another order": [
        asked("a", None, (0, 99), accepted(0)),
        asked("b", 5, (2, 3), Conflict(0)),
        asked("c", 5, (4, 5), Conflict(-1)),
    ],
    "an accepted append is lost": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", -1, (2, 3), accepted(0)),
    ],
    "a lost append, as a conflict sees it": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", 0, (2, 3), Conflict(-1)),
    ],
    "versions against the order of time": [
        asked("a", None, (0, 1), accepted(1)),
        asked("b", None, (2, 3), accepted(0)),
    ],
    "a version other than the expected one": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", -1, (2, 3), accepted(1)),
    ],
    "a duplicate that names other versions": [
        asked("a", None, (0, 1), accepted(0)),
        asked("b", None, (2, 3), accepted(1)),
        asked("a", None, (4, 5), duplicate(1)),
    ],
    "a duplicate of what came later": [
        asked("a", None, (0, 1), duplicate(1)),
        asked("b", None, (2, 3), accepted(0)),
    ],
    "accepted twice": [asked("a", None, (0, 1), accepted(0)), asked("a", None, (2, 3), accepted(0))],
    "accepted after it was in already": [
        asked("a", None, (0, None), None),
        asked("b", 0, (1, 2), accepted(1)),
        asked("a", None, (5, 6), accepted(0)),
    ],
    "an unknown that happened twice": [
        asked("a", None, (0, None), None),
        asked("a", None, (1, 2), duplicate(0)),
        asked("a", None, (3, 4), accepted(1)),
    ],
    "fewer versions than events": [asked("a", None, (0, 1), accepted(0), count=2)],
}

A: Ids = ("a.0",)
B: Ids = ("b.0",)
WITH_A_LOG: dict[str, tuple[list[Operation], Log, bool]] = {
    "as it was told": ([asked("a", None, (0, 1), accepted(0))], {A: 0}, True),
    "the unknown is in": ([asked("a", None, (0, None), None)], {A: 0}, True),
    "the unknown is not": ([asked("a", None, (0, None), None)], {}, True),
    "accepted and not there": ([asked("a", None, (0, 1), accepted(0))], {}, False),
    "accepted as another version": (
        [asked("a", None, (0, None), None), asked("b", None, (0, 1), accepted(0))],
        {A: 0, B: 1},
        False,
    ),
    "there though it was a conflict": ([asked("a", 3, (0, 1), Conflict(-1))], {A: 0}, False),
    "there though it was refused": ([asked("a", None, (0, 1), Refused("malformed"))], {A: 0}, False),
    "there and nobody asked for it": ([], {A: 0}, False),
    "the unknown is not, and was needed": (
        [asked("a", None, (0, None), None), asked("b", None, (1, 2), accepted(1))],
        {B: 1},
        False,
    ),
    "the unknown came before it was asked for": (
        [asked("b", None, (1, 2), accepted(1)), asked("a", None, (3, None), None)],
        {A: 0, B: 1},
        False,
    ),
    "the unknown is where it was not expected": ([asked("a", 4, (0, None), None)], {A: 0}, False),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right(name: str) -> None:
    assert can_be(GOOD[name])
    assert check(GOOD[name]) == ""


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong(name: str) -> None:
    assert not can_be(BAD[name])
    assert check(BAD[name]) != ""


@pytest.mark.parametrize("name", WITH_A_LOG)
def test_what_the_log_says(name: str) -> None:
    operations, log, right = WITH_A_LOG[name]
    assert (check(operations, log) == "") == right


def test_it_says_what_is_wrong() -> None:
    said = check([asked("a", None, (0, 1), accepted(0)), asked("b", 0, (2, 3), Conflict(-1))])
    assert "the version was beyond that" in said
    assert "append 1 (b.0) to account-1 at 0 [2 .. 3]: Conflict(current=-1)" in said


@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_what_a_register_answered_is_right(random: Random, count: int, width: int) -> None:
    history = made(random, count, width=width)
    assert check(history.operations) == ""
    assert check(history.operations, history.log) == ""


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_it_agrees_with_trying_every_order(random: Random, count: int, width: int, changes: int) -> None:
    history = made(random, count, width=width)
    operations = history.operations
    for _ in range(changes):
        operations = changed(random, operations) if operations else operations
    assert (check(operations) == "") == can_be(operations)
    assert (check(operations, history.log) == "") == can_be(operations, history.log)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_single_answer_changed_is_found_among_many(random: Random) -> None:
    """An accepted append of a long history is told a version that another one has."""
    operations = made(random, 80, width=6).operations
    appended = [number for number, one in enumerate(operations) if isinstance(one.answer, Appended)]
    assume(appended)
    one, other = random.choice(appended), random.choice(appended)
    assume(operations[one].ids != operations[other].ids)
    operations[one] = operations[one]._replace(answer=operations[other].answer)
    assert check(operations) != ""


def test_many_unknowns_do_not_make_it_slow() -> None:
    """Which of them took place is a choice for every gap; all that matters is how many there were."""
    unknowns = [asked(f"u{n}", None, (0, None), None, count=1 + n % 3) for n in range(60)]
    known = [asked(f"k{n}", None, (10 * n, 10 * n + 5), accepted(3 * n + 2)) for n in range(20)]
    assert check(unknowns + known) == ""
    impossible = asked("last", None, (1000, 1001), accepted(10_000))
    assert check([*unknowns, *known, impossible]) != ""
