"""Histories made up for the checker's tests: by hand, at random, and judged by trying every order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from tests.linearizability.history import Answer, Appended, Conflict, Ids, Operation, Refused

KEY = "account-1"


def asked(
    name: str, expected: int | None, from_to: tuple[int, int | None], answer: Answer | None, *, count: int = 1
) -> Operation:
    """An append of `count` events whose ids come from its name."""
    ids = tuple(f"{name}.{number}" for number in range(count))
    return Operation("client", KEY, ids, expected, from_to[0], from_to[1], answer)


def accepted(first: int, last: int | None = None) -> Appended:
    return Appended(first, first if last is None else last, first, duplicate=False)


def duplicate(first: int, last: int | None = None) -> Appended:
    return Appended(first, first if last is None else last, first, duplicate=True)


# --- Every order ---


class _Register(NamedTuple):
    """`places`: ids -> the version of their first event."""

    tail: int
    places: Mapping[Ids, int]


def can_be(operations: Sequence[Operation], log: Mapping[Ids, int] | None = None) -> bool:
    """The question of `register.check`, answered by trying every order; for a handful of operations."""
    return _can_go_on(list(operations), _Register(-1, {}), log)


def _can_go_on(left: list[Operation], register: _Register, log: Mapping[Ids, int] | None) -> bool:
    if all(one.answer is None for one in left) and (log is None or register.places == log):
        return True
    limit = min((math.inf if one.answered_ns is None else one.answered_ns for one in left), default=math.inf)
    return any(
        after is not None and _can_go_on([other for other in left if other is not one], after, log)
        for one in left
        if one.invoked_ns <= limit
        for after in [_after(one, register)]
    )


def _after(one: Operation, register: _Register) -> _Register | None:
    """The register after an operation that comes now; None: its answer would be another."""
    place = register.places.get(one.ids)
    fits = place is None and one.expected in (None, register.tail)
    grown = _Register(register.tail + len(one.ids), {**register.places, one.ids: register.tail + 1})
    match one.answer:
        case None:
            return grown if fits else register
        case Refused():
            return register
        case Conflict(current):
            return register if place is None and not fits and current == register.tail else None
        case Appended(first, last, _, was_there):
            if last - first + 1 != len(one.ids):
                return None
            if place is not None:
                return register if was_there and place == first else None
            return grown if fits and first == register.tail + 1 else None


# --- At random ---


class Made(NamedTuple):
    """A history that is linearizable, and what the register held in the end."""

    operations: list[Operation]
    log: dict[Ids, int]


def made(random: Random, count: int, *, width: int) -> Made:
    """Operations that a register answered one after the other, each then stretched over up to `width` others."""
    register = _Register(-1, {})
    operations: list[Operation] = []
    for moment in range(1, count + 1):
        one = _question(random, operations, register.tail)
        begins = 10 * moment - random.randrange(10 * width)
        if random.random() < 0.2:
            operations.append(one._replace(invoked_ns=begins))
            if random.random() < 0.5:
                register = _after(operations[-1], register) or register
            continue
        answer, register = _answered(random, one, register)
        ends = 10 * moment + random.randrange(10 * width)
        operations.append(one._replace(invoked_ns=begins, answered_ns=ends, answer=answer))
    return Made(operations, dict(register.places))


def _question(random: Random, before: Sequence[Operation], tail: int) -> Operation:
    if before and random.random() < 0.3:
        again = random.choice(before)
        return again._replace(answered_ns=None, answer=None)
    expected = random.choice([None, tail, tail, tail, max(-1, tail - 1), tail + 1, tail + 2])
    return asked(f"append{len(before)}", expected, (0, None), None, count=random.choice([1, 1, 1, 2, 3]))


def _answered(random: Random, one: Operation, register: _Register) -> tuple[Answer, _Register]:
    place = register.places.get(one.ids)
    size = len(one.ids)
    if place is not None:
        return duplicate(place, place + size - 1), register
    if one.expected not in (None, register.tail):
        return Conflict(register.tail), register
    first = register.tail + 1
    after = _Register(register.tail + size, {**register.places, one.ids: first})
    # It may be the second copy that was answered.
    return Appended(first, first + size - 1, first, duplicate=random.random() < 0.1), after


def changed(random: Random, operations: Sequence[Operation]) -> list[Operation]:
    """The same with one thing changed, which may or may not be wrong then."""
    result = list(operations)
    at = random.randrange(len(result))
    one = result[at]
    by = random.choice([-2, -1, 1, 2])
    match one.answer, random.randrange(4):
        case _, 0:
            del result[at]
        case _, 1:
            shift = random.choice([-40, -20, 20, 40])
            ends = None if one.answered_ns is None else one.answered_ns + shift
            result[at] = one._replace(invoked_ns=one.invoked_ns + shift, answered_ns=ends)
        case Appended() as answer, 2:
            result[at] = one._replace(answer=answer._replace(first=answer.first + by, last=answer.last + by))
        case Appended() as answer, _:
            result[at] = one._replace(answer=answer._replace(duplicate=not answer.duplicate))
        case Conflict(current), _:
            result[at] = one._replace(answer=Conflict(current + by))
        case _, _:
            result[at] = one._replace(answered_ns=one.invoked_ns + 30, answer=Conflict(random.randrange(-1, 5)))
    return result
