"""Is a history of appends to one aggregate linearizable? Exact, and fast where versions are as telling as ours. Pure.

The object is a versioned register that starts at version -1. `append(ids, expected)` is

- a duplicate, where the same ids are in: it names the versions that they are in as, and changes nothing;
- else accepted, where `expected` is any, or the current version: the events get the versions that follow;
- else a conflict: it names the current version, and changes nothing.

A history is linearizable if every operation can be given one moment between its question and its answer so that the
answers are what the register says when they are asked in that order (Herlihy and Wing). An operation without an answer
may have a moment at any time after its question, or none.

The search is that of Wing and Gong with Lowe's memory of the states that were tried; per aggregate, for a history is
linearizable if that of each aggregate is. It takes short cuts that lose nothing:

- What changes nothing is taken as soon as it is right: it stands in nobody's way.
- An accepted append says at which version it took place. So only where no answer tells what came next, one of the
  operations without an answer must have; and of those, what matters is only how many events they bring. One that can
  take place at this version only is preferred to one that can at any, and an earlier one to a later one.

One answer means less than its words, because a client asks again where it hears nothing: an append that is told to be
a duplicate may have taken place within its own time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.linearizability.history import Appended, Conflict, Ids, Operation

SHOWN_OPERATIONS = 6


@dataclass
class _Append:
    """All attempts at one append."""

    ids: Ids
    expected: int | None
    first: int | None = None  # the version of its first event, where that is known
    appended: list[int] = field(default_factory=list)  # known operations, by number
    conflicts: list[int] = field(default_factory=list)
    unknown_from_ns: float = math.inf  # the first attempt that was left without an answer

    @property
    def last(self) -> int:
        assert self.first is not None
        return self.first + len(self.ids) - 1


class _State(NamedTuple):
    """How far a search has come.

    Attributes:
        remaining: operations with an answer that have no moment yet, by number, in the order of their questions.
        taken: appends without any answer, to be had at any version, that took place.
    """

    tail: int
    remaining: tuple[int, ...]
    taken: frozenset[Ids]


def check(operations: Sequence[Operation], log: Mapping[Ids, int] | None = None) -> str:
    """What is wrong with a history of one aggregate; "" = it is linearizable.

    Args:
        operations: in any order. No id belongs to two appends; attempts at one append expect the same version.
        log: what the aggregate holds in the end, if that is to agree too: the ids of every append that took place, and
            the version of its first event.
    """
    ordered = sorted(operations, key=lambda operation: operation.invoked_ns)
    known = [one for one in ordered if isinstance(one.answer, Appended | Conflict)]
    appends = _appends(ordered, known)
    wrong = next(_contradictions(known, appends, log), "")
    return wrong or _Search(known, appends, only_known=log is not None).run()


def _appends(ordered: Sequence[Operation], known: Sequence[Operation]) -> dict[Ids, _Append]:
    appends: dict[Ids, _Append] = {}
    for one in ordered:
        append = appends.setdefault(one.ids, _Append(one.ids, one.expected))
        assert append.expected == one.expected, f"attempts at one append differ: {one}"
        if one.answer is None:
            append.unknown_from_ns = min(append.unknown_from_ns, one.invoked_ns)
    for number, one in enumerate(known):
        if isinstance(one.answer, Appended):
            appends[one.ids].appended.append(number)
        else:
            appends[one.ids].conflicts.append(number)
    count = sum(len(ids) for ids in appends)
    assert count == len({event_id for ids in appends for event_id in ids}), "an id belongs to two appends"
    return appends


def _contradictions(
    known: Sequence[Operation], appends: Mapping[Ids, _Append], log: Mapping[Ids, int] | None
) -> Iterator[str]:
    """What cannot be, whatever happened when. Notes where each append took place."""
    for one in known:
        append = appends[one.ids]
        match one.answer:
            case Conflict(current) if one.expected is None or one.expected == current:
                yield f"a conflict where there is none: {one}"
            case Appended(first, last) if first < 0 or last - first + 1 != len(one.ids):
                yield f"not as many versions as events: {one}"
            case Appended(first) if one.expected not in (None, first - 1):
                yield f"not the version that it expected: {one}"
            case Appended(first) if append.first not in (None, first):
                yield f"in twice, as version {append.first} too: {one}"
            case Appended(first):
                append.first = first
    if log is not None:
        yield from _differences(appends, log)
    placed = sorted((a for a in appends.values() if a.first is not None), key=lambda a: (a.first, a.last))
    for one_append, next_append in itertools.pairwise(placed):
        if next_append.first is not None and next_append.first <= one_append.last:
            yield f"version {next_append.first} was given to two: {_brief(one_append)} and {_brief(next_append)}"


def _differences(appends: Mapping[Ids, _Append], log: Mapping[Ids, int]) -> Iterator[str]:
    for ids, append in appends.items():
        if append.first is not None and log.get(ids) != append.first:
            yield f"{_brief(append)} is version {append.first} to its client and {log.get(ids)} in the log"
        append.first = log.get(ids)
        if append.first is None:
            continue
        if append.expected not in (None, append.first - 1):
            yield f"{_brief(append)} expected {append.expected} and is version {append.first} in the log"
        if not append.appended and append.unknown_from_ns == math.inf:
            yield f"{_brief(append)} was refused and is version {append.first} in the log"
    yield from (f"nobody has appended {ids} of the log" for ids in log if ids not in appends)


def _brief(append: _Append) -> str:
    return f"append {append.ids[0][:8]}"


class _Search:
    """Looks for moments. `only_known`: an append that has no version has not taken place."""

    def __init__(self, known: Sequence[Operation], appends: Mapping[Ids, _Append], *, only_known: bool) -> None:
        self._known = known
        self._appends = appends
        self._at = {append.first: append for append in appends.values() if append.first is not None}
        self._open = (
            []
            if only_known
            else sorted(
                (a for a in appends.values() if a.first is None and a.unknown_from_ns < math.inf),
                key=lambda append: (append.expected is None, append.unknown_from_ns),
            )
        )
        self._end = max((append.last for append in self._at.values()), default=-1)
        self._furthest = math.inf
        self._trouble = ""

    def run(self) -> str:
        """What is wrong, where the search came furthest; "" = nothing."""
        states = [_State(-1, tuple(range(len(self._known))), frozenset())]
        seen: set[_State] = set()
        while states:
            state = self._settle(states.pop())
            if state is None or state in seen:
                continue
            seen.add(state)
            if not state.remaining and state.tail >= self._end:
                return ""
            following = list(self._following(state))
            if not following:
                self._fail(state, "nothing can come next")
            states += following
        return self._trouble

    def _settle(self, state: _State) -> _State | None:
        """Take everything that changes nothing and is right. None: something can never be right any more."""
        while True:
            limit_ns = self._limit_ns(state)
            left: list[int] = []
            for place, number in enumerate(state.remaining):
                one = self._known[number]
                if one.invoked_ns > limit_ns:
                    left += state.remaining[place:]
                    break
                right = self._is_right(one, state)
                if right is None:
                    return None
                if not right:
                    left.append(number)
            if len(left) == len(state.remaining):
                return state
            state = state._replace(remaining=tuple(left))

    def _limit_ns(self, state: _State) -> float:
        """The first answer that is still to come: nothing that was asked after it can come before it."""
        limit_ns = math.inf
        for number in state.remaining:
            one = self._known[number]
            if one.invoked_ns > limit_ns:
                break
            assert one.answered_ns is not None
            limit_ns = min(limit_ns, one.answered_ns)
        return limit_ns

    def _is_right(self, one: Operation, state: _State) -> bool | None:
        """Whether its answer is that of a register in this state which it does not change. None: never again."""
        append = self._appends[one.ids]
        taken = append.first is not None and append.first <= state.tail
        if isinstance(one.answer, Appended):
            return taken
        assert isinstance(one.answer, Conflict)
        if one.answer.current < state.tail or taken:
            why = "it was in already" if taken else "the version was beyond that"
            self._fail(state, f"{why}: {one}")
            return None
        return one.answer.current == state.tail

    def _following(self, state: _State) -> Iterator[_State]:
        """The states after the next append that takes place."""
        limit_ns = self._limit_ns(state)
        append = self._at.get(state.tail + 1)
        if append is None:
            yield from self._guesses(state, limit_ns)
            return
        fresh = [number for number in append.appended if not self._answer(number).duplicate]
        if not fresh and append.unknown_from_ns <= limit_ns:
            yield state._replace(tail=append.last)
            return
        able = [number for number in fresh or append.appended if self._known[number].invoked_ns <= limit_ns]
        if able and len(fresh) <= 1:
            left = tuple(number for number in state.remaining if number != able[0])
            yield state._replace(tail=append.last, remaining=left)

    def _answer(self, number: int) -> Appended:
        answer = self._known[number].answer
        assert isinstance(answer, Appended)
        return answer

    def _guesses(self, state: _State, limit_ns: float) -> Iterator[_State]:
        """One append without any answer took place: one for each number of events."""
        sizes: set[int] = set()
        for append in self._open:
            size = len(append.ids)
            if (
                size not in sizes
                and append.expected in (None, state.tail)
                and append.unknown_from_ns <= limit_ns
                and append.ids not in state.taken
                and not any(number in state.remaining for number in append.conflicts)
                and not any(version in self._at for version in range(state.tail + 1, state.tail + size + 1))
            ):
                sizes.add(size)
                # One that expects a version can never take place again, and need not be remembered.
                taken = state.taken | {append.ids} if append.expected is None else state.taken
                yield state._replace(tail=state.tail + size, taken=taken)

    def _fail(self, state: _State, why: str) -> None:
        if len(state.remaining) >= self._furthest:
            return
        self._furthest = len(state.remaining)
        limit_ns = self._limit_ns(state)
        waiting = [str(self._known[n]) for n in state.remaining if self._known[n].invoked_ns <= limit_ns]
        lines = [f"at version {state.tail}: {why}", *waiting[:SHOWN_OPERATIONS]]
        append = self._at.get(state.tail + 1)
        if append is not None:
            lines.append(f"version {state.tail + 1} is {_brief(append)}")
        self._trouble = "\n    ".join(lines)
