"""The judgement: every row of the contract's table, and batches judged against what is decided but not applied."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from sequencer.decide import Decided, Overlay
from sequencer.event import Accepted, Flawed, Forwarded, Reason, Rejected, Source, Submission
from sequencer.plain import AcceptedRun
from state.index import IndexLimits, VersionIndex
from tests.judged import ByColumns, ids_of, one_by_one

SOURCE = Source("7:3:0:", 0, b"", None)
WINDOW_MS = 60_000


def event_id(name: str) -> bytes:
    return uuid.uuid5(uuid.NAMESPACE_OID, name).bytes


def submit(key: str, name: str, expected: int | None = None) -> Submission:
    identifier = event_id(name)
    return Submission(key, identifier, str(uuid.UUID(bytes=identifier)), expected, b"", None, b"{}", SOURCE, 0)


def flaw(reason: Reason = Reason.MALFORMED) -> Flawed:
    return Flawed(reason, "a detail", "", b"", None, b"", SOURCE, 0)


class Memory:
    """An index that says what it is told, and counts what it is asked."""

    def __init__(self, tails: Mapping[str, int] = {}, ids: Mapping[tuple[bytes, str], tuple[int, int]] = {}) -> None:
        self.stored = dict(tails)
        self.ids = dict(ids)
        self.asked_tails: list[str] = []
        self.asked_ids: list[int] = []

    def tails(self, keys: Sequence[str]) -> list[int]:
        self.asked_tails.extend(keys)
        return [self.stored.get(key, -1) for key in keys]

    def accepted(self, asked: Sequence[tuple[bytes, str]]) -> list[tuple[int, int] | None]:
        self.asked_ids.append(len(asked))
        return [self.ids.get(row) for row in asked]

    def apply(self, decided: Decided) -> None:
        self.stored.update(decided.tails)
        self.ids.update(ids_of(decided))


class MakeOverlay(Protocol):
    def __call__(
        self,
        index: VersionIndex | Memory,
        *,
        partition: int = 0,
        partitions: int = 1,
        next_sequence: int = 0,
        cache_aggregates: int = 1000,
    ) -> Overlay: ...


@pytest.fixture(params=[Overlay, ByColumns], ids=["one by one", "by columns"])
def overlay_of(request: pytest.FixtureRequest) -> MakeOverlay:
    """Makes an overlay; each test runs with one that is given single messages, and one that is given columns."""
    return partial(request.param, partition=0, partitions=1, next_sequence=0, cache_aggregates=1000)


def short(outcome: Accepted | AcceptedRun | Rejected | Forwarded) -> str:
    """`accepted 4`, `duplicate 2`, `wrong_expected_version`, ..."""
    match outcome:
        case Forwarded(home=home):
            return f"forwarded {home}"
        case Accepted(version=version):
            return f"accepted {version}"
        case AcceptedRun():
            raise AssertionError("`ByColumns` tells one by one")
        case Rejected(reason=Reason.DUPLICATE, accepted=version):
            return f"duplicate {version}"
        case Rejected(reason=reason):
            return str(reason)


def shorts(overlay: Overlay, *submissions: Submission | Flawed) -> list[str]:
    return [short(outcome) for outcome in overlay.decide(submissions).outcomes]


# --- the table of the contract ---

# One aggregate for each tail. Version n of the aggregate with tail t has the id "t-n"; that of version 0 has left the
# window, where there are others.
AGGREGATES = {-1: "no such", 0: "one event", 2: "tail < 3", 3: "tail = 3", 7: "tail > 3"}
ANOTHER = "another aggregate"
SEQUENCE = 1000
"""That of every version 0 here: a sequence is not a version."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersionIndex]:
    left: list[tuple[bytes, str, int, int]] = []
    kept: list[tuple[bytes, str, int, int]] = []
    for tail, key in AGGREGATES.items():
        for version in range(tail + 1):
            ids = left if version < tail and version == 0 else kept
            ids.append((event_id(f"{tail}-{version}"), key, version, SEQUENCE + version))
    tails = {key: tail for tail, key in AGGREGATES.items() if tail >= 0}
    directory: Path = tmp_path_factory.mktemp("index")
    with VersionIndex.open(directory, identity="events", limits=IndexLimits(id_window_ms=WINDOW_MS)) as index:
        index.apply({}, left, accepted_at_ms=1, checkpoint=None)
        of_another = [(event_id("another"), ANOTHER, 0, SEQUENCE)]
        index.apply({ANOTHER: 0}, of_another, accepted_at_ms=1 + WINDOW_MS, checkpoint=None)
        index.apply(tails, kept, accepted_at_ms=1 + 2 * WINDOW_MS, checkpoint=None)
        assert index.accepted([(event_id("7-0"), AGGREGATES[7])])[0] is None, "it has left"
        assert index.accepted([(event_id("7-1"), AGGREGATES[7])])[0] == (1, SEQUENCE + 1), "it has not"
        yield index


WRONG = "wrong_expected_version"
KINDS = ("fresh", "last", "older", "another", "left")
TABLE: list[tuple[int | None, int, tuple[str | None, ...]]] = [
    # expected, the aggregate's tail: the outcome with a fresh id, the last event's id, that of an older event, that of
    # an event of another aggregate, one that has left the window; None where there is no such event.
    (None, -1, ("accepted 0", None, None, "accepted 0", None)),
    (None, 0, ("accepted 1", "duplicate 0", None, "accepted 1", None)),
    (None, 2, ("accepted 3", "duplicate 2", "duplicate 1", "accepted 3", "accepted 3")),
    (None, 7, ("accepted 8", "duplicate 7", "duplicate 1", "accepted 8", "accepted 8")),
    (-1, -1, ("accepted 0", None, None, "accepted 0", None)),
    (-1, 0, (WRONG, "duplicate 0", None, WRONG, None)),
    (-1, 2, (WRONG, "duplicate 2", "duplicate 1", WRONG, WRONG)),
    (-1, 7, (WRONG, "duplicate 7", "duplicate 1", WRONG, WRONG)),
    (0, -1, (WRONG, None, None, WRONG, None)),
    (0, 0, ("accepted 1", "accepted 1", None, "accepted 1", None)),
    (0, 2, (WRONG, "duplicate 2", "duplicate 1", WRONG, WRONG)),
    (3, -1, (WRONG, None, None, WRONG, None)),
    (3, 2, (WRONG, "duplicate 2", "duplicate 1", WRONG, WRONG)),
    (3, 3, ("accepted 4", "accepted 4", "accepted 4", "accepted 4", "accepted 4")),
    (3, 7, (WRONG, "duplicate 7", "duplicate 1", WRONG, WRONG)),
    (2**53, 7, (WRONG, "duplicate 7", "duplicate 1", WRONG, WRONG)),
]


@pytest.mark.parametrize(
    ("expected", "tail", "kind", "outcome"),
    [
        pytest.param(expected, tail, kind, outcome, id=f"expected {expected} tail {tail} id {kind}")
        for expected, tail, outcomes in TABLE
        for kind, outcome in zip(KINDS, outcomes, strict=True)
        if outcome is not None
    ],
)
def test_the_table(
    overlay_of: MakeOverlay, index: VersionIndex, expected: int | None, tail: int, kind: str, outcome: str
) -> None:
    names = {"last": f"{tail}-{tail}", "older": f"{tail}-1", "left": f"{tail}-0"}
    submission = submit(AGGREGATES[tail], names.get(kind, kind), expected)
    (judged,) = one_by_one(overlay_of(index).decide([submission]).outcomes)
    assert short(judged) == outcome
    assert judged.submission is submission
    if isinstance(judged, Rejected):
        assert (judged.expected, judged.current) == (expected, tail)
        assert judged.detail


def test_a_key_is_not_its_neighbour(overlay_of: MakeOverlay, index: VersionIndex) -> None:
    key = AGGREGATES[3]
    for other in (key + " ", key[:-1], key.upper(), "", key + "\0"):
        assert shorts(overlay_of(index), submit(other, "3-3", 3)) == [WRONG]


# --- lists ---


def submit_list(key: str, *names: str, expected: int | None = None) -> Submission:
    whole = submit(key, f"list of {names}", expected)
    return replace(whole, several=tuple(submit(key, name, expected) for name in names))


LISTS: list[tuple[int | None, int, tuple[str, str, str, str, str]]] = [
    # expected, tail: the outcome with two fresh ids, two of the aggregate's, one of them and a fresh one, one of
    # another aggregate and a fresh one, one that has left the window and a fresh one.
    (None, 7, ("accepted 8", "duplicate 1", "conflicting_ids", "accepted 8", "accepted 8")),
    (7, 7, ("accepted 8", "duplicate 1", "conflicting_ids", "accepted 8", "accepted 8")),
    (6, 7, (WRONG, "duplicate 1", "conflicting_ids", WRONG, WRONG)),
    (-1, 7, (WRONG, "duplicate 1", "conflicting_ids", WRONG, WRONG)),
]
PAIRS = (("fresh", "new"), ("7-1", "7-7"), ("7-1", "new"), ("another", "new"), ("7-0", "new"))


@pytest.mark.parametrize(
    ("expected", "tail", "names", "outcome"),
    [
        pytest.param(expected, tail, names, outcome, id=f"expected {expected} tail {tail} ids {'+'.join(names)}")
        for expected, tail, outcomes in LISTS
        for names, outcome in zip(PAIRS, outcomes, strict=True)
    ],
)
def test_the_table_of_lists(
    overlay_of: MakeOverlay, index: VersionIndex, expected: int | None, tail: int, names: tuple[str, ...], outcome: str
) -> None:
    overlay = overlay_of(index, next_sequence=5)
    decided = overlay.decide([submit_list(AGGREGATES[tail], *names, expected=expected)])
    assert [short(one) for one in decided.outcomes] == [outcome]
    (judged,) = decided.outcomes
    if isinstance(judged, Rejected) and judged.reason == Reason.DUPLICATE:
        assert (judged.accepted, judged.accepted_last, judged.accepted_sequence) == (1, 7, SEQUENCE + 1)
    accepted = outcome.startswith("accepted")
    assert decided.next_sequence == (7 if accepted else 5)
    assert decided.tails == ({AGGREGATES[tail]: tail + 2} if accepted else {})
    key = AGGREGATES[tail]
    ids = {(event_id(names[0]), key): (tail + 1, 5), (event_id(names[1]), key): (tail + 2, 6)}
    assert ids_of(decided) == (ids if accepted else {})


def test_lists_and_single_events_in_one_batch(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), next_sequence=40)
    batch = [
        submit_list("a", "1", "2", "3", expected=-1),
        submit("a", "4", 2),
        submit_list("a", "1", "2", "3", expected=-1),
        submit_list("a", "4", "5", expected=3),
        submit("a", "2", 0),
        submit_list("b", "1", "2"),
        submit_list("a", "1", "2", expected=3),
    ]
    assert shorts(overlay, *batch) == [
        "accepted 0",
        "accepted 3",
        "duplicate 0",
        "conflicting_ids",
        "duplicate 1",
        "accepted 0",
        "duplicate 0",
    ]
    assert ids_of(overlay.decide([submit("c", "1")])) == {(event_id("1"), "c"): (0, 46)}


def test_a_list_that_belongs_elsewhere_is_forwarded_whole(overlay_of: MakeOverlay) -> None:
    whole = submit_list("a", "1", "2", expected=-1)
    overlay = overlay_of(Memory(), partition=0, partitions=5, next_sequence=0)
    (outcome,) = overlay.decide([whole]).outcomes
    assert isinstance(outcome, Forwarded)
    assert outcome.submission is whole


# --- one batch ---


def test_events_of_one_aggregate_in_one_batch(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), next_sequence=40)
    decided = overlay.decide([submit("a", "1", -1), submit("a", "2", 0), submit("a", "3"), submit("a", "4", 2)])
    assert [short(outcome) for outcome in decided.outcomes] == ["accepted 0", "accepted 1", "accepted 2", "accepted 3"]
    assert [outcome.sequence for outcome in decided.outcomes if isinstance(outcome, Accepted)] == [40, 41, 42, 43]
    assert decided.next_sequence == 44
    assert decided.tails == {"a": 3}
    assert ids_of(decided) == {(event_id(str(n + 1)), "a"): (n, 40 + n) for n in range(4)}


def test_two_writers_that_saw_the_same_version(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory({"a": 1}))
    decided = overlay.decide([submit("a", "mine", 1), submit("a", "yours", 1), submit("a", "command")])
    assert [short(outcome) for outcome in decided.outcomes] == ["accepted 2", WRONG, "accepted 3"]
    lost = decided.outcomes[1]
    assert isinstance(lost, Rejected)
    assert (lost.expected, lost.current, lost.accepted) == (1, 2, None)
    assert (event_id("yours"), "a") not in ids_of(decided), "a rejected event is not remembered"


def test_an_accepted_event_after_a_rejected_one(overlay_of: MakeOverlay) -> None:
    batch: list[Submission | Flawed] = [submit("a", "1", 5), flaw(), submit("a", "1", 4), submit("a", "2", 5)]
    assert shorts(overlay_of(Memory({"a": 4})), *batch) == [WRONG, "malformed", "accepted 5", "accepted 6"]


def test_duplicates_in_one_batch(overlay_of: MakeOverlay) -> None:
    first, command = submit("a", "1", -1), submit("a", "2")
    outcomes = shorts(overlay_of(Memory()), first, first, command, command, first, submit("b", "1", -1))
    assert outcomes == ["accepted 0", "duplicate 0", "accepted 1", "duplicate 1", "duplicate 0", "accepted 0"]


def test_an_id_sent_again_with_a_newer_version_is_a_new_event_and_is_known_by_that(overlay_of: MakeOverlay) -> None:
    outcomes = shorts(overlay_of(Memory()), submit("a", "1", -1), submit("a", "1", 0), submit("a", "1", 0))
    assert outcomes == ["accepted 0", "accepted 1", "duplicate 1"]


@pytest.mark.parametrize("reason", list(Reason))
def test_flawed_messages_become_their_outcome_and_change_nothing(overlay_of: MakeOverlay, reason: Reason) -> None:
    overlay = overlay_of(Memory({"a": 1}), next_sequence=3)
    decided = overlay.decide([flaw(reason), submit("a", "1", 1), flaw(reason)])
    rejected = Rejected(flaw(reason), reason, "a detail")
    assert decided.outcomes == [rejected, Accepted(submit("a", "1", 1), 2, 3), rejected]
    assert (decided.tails, decided.next_sequence) == ({"a": 2}, 4)


def test_an_empty_batch(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), next_sequence=9)
    decided = overlay.decide([])
    assert (decided.outcomes, decided.messages, decided.tails, ids_of(decided)) == ([], 0, {}, {})
    assert decided.next_sequence == 9
    overlay.applied(decided)


def test_a_batch_asks_for_every_tail_once_and_for_ids_where_a_duplicate_is_possible(overlay_of: MakeOverlay) -> None:
    index = Memory({"a": 1})
    shorts(overlay_of(index), submit("a", "1", 1), submit("a", "2", 2), submit("b", "3", -1), submit("b", "4", 0))
    assert sorted(index.asked_tails) == ["a", "b"]
    assert index.asked_ids == []
    shorts(overlay_of(index), submit("a", "5"), submit("a", "6", 2), submit("b", "7"))
    assert index.asked_ids == [2], "at once, before anything is judged"


def test_ids_of_conflicts_are_looked_up_together(overlay_of: MakeOverlay) -> None:
    known = {(event_id("1"), "a"): (0, 40), (event_id("2"), "b"): (0, 41)}
    index = Memory({"a": 1, "b": 2}, known)
    conflicts = [submit("a", "1", 7), submit("b", "1", 7), submit("b", "2", 8), submit("a", "3", 7)]
    overlay = overlay_of(index)
    assert shorts(overlay, *conflicts) == ["duplicate 0", WRONG, "duplicate 0", WRONG]
    assert index.asked_ids == [4]
    assert shorts(overlay, submit("a", "4", 7), submit("a", "4", 1), submit("a", "4", 7)) == [
        WRONG,
        "accepted 2",
        "duplicate 2",
    ], "what comes later in a batch is no reason"


# --- batches in flight ---


def test_a_batch_is_judged_against_what_is_decided_before_it_is_applied(overlay_of: MakeOverlay) -> None:
    index = Memory({"a": 4})
    overlay = overlay_of(index, next_sequence=10)
    assert shorts(overlay, submit("a", "1", 4), submit("b", "2", -1)) == ["accepted 5", "accepted 0"]
    assert shorts(overlay, submit("a", "3", 4), submit("a", "4", 5)) == [WRONG, "accepted 6"]
    third = overlay.decide([submit("a", "5", 6), submit("b", "6", 0)])
    assert third.tails == {"a": 7, "b": 1}
    assert [outcome.sequence for outcome in third.outcomes if isinstance(outcome, Accepted)] == [13, 14]
    assert index.stored == {"a": 4}, "deciding writes nothing"


def test_a_duplicate_of_any_batch_in_flight(overlay_of: MakeOverlay) -> None:
    index = Memory()
    overlay = overlay_of(index)
    batches = [overlay.decide([submit("a", str(n))]) for n in range(3)]
    for n in range(3):
        assert shorts(overlay, submit("a", str(n))) == [f"duplicate {n}"]
    assert shorts(overlay, submit("b", "0")) == ["accepted 0"], "an id counts for its aggregate only"
    index.apply(batches[0])
    overlay.applied(batches[0])
    assert shorts(overlay, submit("a", "0"), submit("a", "1")) == ["duplicate 0", "duplicate 1"]


def test_of_two_events_with_one_id_the_newer_one_is_named(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory())
    assert shorts(overlay, submit("a", "1", -1)) == ["accepted 0"]
    assert shorts(overlay, submit("a", "1", 0)) == ["accepted 1"]
    assert shorts(overlay, submit("a", "1", -1)) == ["duplicate 1"]


def test_batches_are_applied_in_their_order(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory())
    first, second = overlay.decide([submit("a", "1")]), overlay.decide([submit("a", "2")])
    with pytest.raises(AssertionError, match="in the order they were decided"):
        overlay.applied(second)
    overlay.applied(first)
    overlay.applied(second)


def test_more_in_flight_than_the_overlay_can_hold_is_a_bug(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), cache_aggregates=8)
    overlay.decide([submit("a", "1"), flaw(), flaw()])
    with pytest.raises(AssertionError, match="more events decided and not applied"):
        overlay.decide([submit("a", "2"), submit("a", "3")])


def test_a_tail_in_flight_outlives_the_turn_of_the_cache(overlay_of: MakeOverlay) -> None:
    index = Memory()
    overlay = overlay_of(index, cache_aggregates=12)
    for key in "abcde":
        decided = overlay.decide([submit(key, key, -1)])
        index.apply(decided)
        overlay.applied(decided)
    assert shorts(overlay, submit("in flight", "1", -1)) == ["accepted 0"]
    assert shorts(overlay, submit("the seventh", "1", -1)) == ["accepted 0"], "more than half the cache: it turns"
    assert shorts(overlay, submit("in flight", "2", 0), submit("in flight", "3", 1)) == ["accepted 1", "accepted 2"]
    assert index.asked_tails.count("in flight") == 1


def test_as_much_may_be_in_flight_as_half_the_cache(overlay_of: MakeOverlay) -> None:
    index = Memory()
    overlay = overlay_of(index, cache_aggregates=12)
    for key in "abcde":
        assert shorts(overlay, submit(key, key, -1)) == ["accepted 0"]
    assert shorts(overlay, submit("a", "second", 0)) == ["accepted 1"]
    assert index.asked_tails == list("abcde")


def test_what_is_long_applied_is_forgotten(overlay_of: MakeOverlay) -> None:
    index = Memory()
    overlay = overlay_of(index, cache_aggregates=12)
    for n in range(100):
        decided = overlay.decide([submit(f"{n}", "1", -1), submit(f"{n - 1}", "2", 0 if n else -1)])
        assert [short(outcome) for outcome in decided.outcomes] == ["accepted 0", "accepted 1" if n else "accepted 0"]
        index.apply(decided)
        overlay.applied(decided)
    assert len(index.asked_tails) == len(set(index.asked_tails)) == 101
    assert shorts(overlay, submit("50", "3", 1)) == ["accepted 2"]
    assert index.asked_tails[-1] == "50", "a cache that forgets nothing has no bound"


# --- misrouted ---

# Of 3 partitions, by Java's hash: the first belongs to 0, the second to 1.
HERE, ELSEWHERE = "\u03a9mega", "account-1"


def test_a_misrouted_aggregate_is_forwarded(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), partition=0, partitions=3, next_sequence=5)
    stray = submit(ELSEWHERE, "1", -1)
    decided = overlay.decide([stray, submit(HERE, "1", -1)])
    assert decided.outcomes[0] == Forwarded(stray, 1)
    assert short(decided.outcomes[1]) == "accepted 0"
    assert decided.tails == {HERE: 0}
    assert decided.next_sequence == 6


def test_a_misrouted_aggregate_is_not_forwarded_twice(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), partition=0, partitions=3, next_sequence=5)
    stray = replace(submit(ELSEWHERE, "1", -1), forwarded=True)
    decided = overlay.decide([stray, submit(HERE, "1", -1), replace(stray, expected=None), flaw()])
    assert [short(outcome) for outcome in decided.outcomes] == ["misrouted", "accepted 0", "misrouted", "malformed"]
    lost = decided.outcomes[0]
    assert isinstance(lost, Rejected)
    assert lost.detail == "the key belongs to partition 1 of 3, it arrived in 0"
    assert (lost.expected, lost.current) == (-1, None), "its aggregate was not looked at"
    assert decided.tails == {HERE: 0}
    assert decided.next_sequence == 6


def test_at_its_home_it_is_accepted(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), partition=1, partitions=3, next_sequence=0)
    assert shorts(overlay, submit(ELSEWHERE, "1", -1)) == ["accepted 0"]


def test_one_transaction_in_several_goes(overlay_of: MakeOverlay) -> None:
    overlay = overlay_of(Memory(), next_sequence=7)
    first = overlay.decide([submit("a", "1", -1), submit("b", "2", -1)])
    second = overlay.decide([submit("a", "3", 0), submit("a", "1")], first)
    assert [short(outcome) for outcome in second.outcomes] == ["accepted 1", "duplicate 0"]
    assert (second.messages, second.tails, second.next_sequence) == (4, {"a": 1, "b": 0}, 10)
    assert ids_of(second) == {
        (event_id("1"), "a"): (0, 7),
        (event_id("2"), "b"): (0, 8),
        (event_id("3"), "a"): (1, 9),
    }
    overlay.applied(second)
