"""Status: what is judged to be wrong, and how a partition is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sequencer import NeedsOperator
from sequencer.status import (
    BACKLOG_AGE_LIMIT_S,
    FOR_EVER,
    HELD_LIMIT_S,
    NO_EVENT,
    OUR_CLIENT,
    Backlog,
    Hold,
    IndexState,
    Ownership,
    PartitionState,
    Peer,
    Problem,
    Record,
    Rejections,
    TopicsState,
    diagnose,
    diagnose_topics,
)
from sequencer.status_command import partition_as_json, partition_row
from state.errors import IndexFailure

NOW_MS = 1_700_000_000_000
OURS = Peer("10.0.0.1:1234", "2026-11-24T12:26:16.040481826Z", OUR_CLIENT)
STRANGER = Peer("10.0.0.9:99", "2026-11-24T12:26:16Z", "Pulsar-Java-v4.2.4")
RECORD = Record("host-a", 41, 7, NOW_MS - 60_000)
LEVEL = IndexState(10)

HEALTHY = PartitionState(
    number=3,
    now_ms=NOW_MS,
    ownership=Ownership(OURS, 7, 1),
    record=RECORD,
    backlog=Backlog(True, 2, NOW_MS - 1000, OURS),
    last_sequence=9,
    index=LEVEL,
    rejections=Rejections({"duplicate": 2, "misrouted": 1}, 900, True),
    holds=(Hold("events-partition-3", 1, False, 0.0, "", None),),
)


def only(state: PartitionState) -> Problem:
    """The one thing that is wrong."""
    (problem,) = diagnose(state)
    assert problem.remedy
    return problem


def with_ownership(*ownership: Any, **more: Any) -> PartitionState:
    return replace(HEALTHY, ownership=Ownership(*ownership), **more)


# --- one partition ---


def test_healthy() -> None:
    assert diagnose(HEALTHY) == []


def test_nothing_known_and_nothing_asked_is_no_problem_by_itself() -> None:
    assert diagnose(PartitionState(number=0, now_ms=NOW_MS)) == []


def test_what_is_unknown_or_unreadable_is_a_problem() -> None:
    broken = Problem("the owner log: no record", "see it")
    problems = diagnose(replace(HEALTHY, unknown=("the backlog: no answer in time",), unreadable=(broken,)))
    assert problems[0] == broken
    assert problems[1].what == "could not be found out: the backlog: no answer in time"
    assert len(problems) == 2


def test_never_owned() -> None:
    assert "nobody has ever owned it" in only(with_ownership(None, None, 0, record=None)).what


def test_the_owner_is_gone() -> None:
    problem = only(with_ownership(None, 7, 0))
    assert problem.what == "no owner: host-a pid 41 (epoch 7) was the last on record"
    assert "start `sequencer run`" in problem.remedy


def test_the_owner_is_gone_although_somebody_waits() -> None:
    problem = only(with_ownership(None, 7, 2))
    assert "up to 2 wait" in problem.what
    assert "look again" in problem.remedy


@pytest.mark.parametrize(("epoch", "wrong"), [(None, True), (6, True), (7, False), (8, False)])
def test_a_record_of_a_later_epoch_than_the_broker_knows(epoch: int | None, wrong: bool) -> None:
    problems = diagnose(with_ownership(OURS, epoch, 0))
    assert [problem.what for problem in problems] == (
        [f"the owner log holds epoch 7 but the broker is at {epoch}: owners give up at once"] if wrong else []
    )


def test_a_new_owner_that_has_recorded_nothing_is_healthy_and_not_taken_for_the_old_one() -> None:
    state = with_ownership(OURS, 8, 0)
    assert diagnose(state) == []
    assert state.owner is None
    assert HEALTHY.owner == RECORD


def test_a_stranger_on_the_owner_topic() -> None:
    assert "10.0.0.9:99 (Pulsar-Java-v4.2.4" in only(with_ownership(STRANGER, 7, 0)).what


def test_no_subscription() -> None:
    problem = only(replace(HEALTHY, backlog=Backlog(False, 0, None, None)))
    assert "subscription on submitted_events is missing" in problem.what
    assert "sequencer init" in problem.remedy


def test_a_stranger_on_the_subscription() -> None:
    state = replace(HEALTHY, backlog=Backlog(True, 0, None, STRANGER))
    assert "the subscription is held by something that is no sequencer" in only(state).what


@pytest.mark.parametrize(
    ("age_s", "wrong"), [(0, False), (BACKLOG_AGE_LIMIT_S, False), (BACKLOG_AGE_LIMIT_S + 1, True)]
)
def test_a_backlog_that_stands_although_there_is_an_owner(age_s: float, wrong: bool) -> None:
    state = replace(HEALTHY, backlog=Backlog(True, 5, NOW_MS - int(age_s * 1000), OURS))
    assert bool(diagnose(state)) is wrong
    if wrong:
        problem = only(state)
        assert problem.what == "the oldest submitted entry has waited 31 s although there is an owner"
        assert "host-a pid 41" in problem.remedy
        assert "the log of the owner" in only(replace(state, record=None)).remedy


def test_a_backlog_without_an_owner_is_told_as_no_owner_only() -> None:
    state = with_ownership(None, 7, 0, backlog=Backlog(True, 5, NOW_MS - 10**7, None))
    assert only(state).what.startswith("no owner")
    assert diagnose(replace(state, ownership=None)) == []


def test_a_stranger_on_an_output() -> None:
    assert "events-partition-3: 10.0.0.9" in only(replace(HEALTHY, strangers=("events-partition-3: 10.0.0.9:99",))).what


@pytest.mark.parametrize(
    ("stuck", "silent_s", "open_s", "wrong"),
    [
        (True, HELD_LIMIT_S + 1, None, True),
        (True, None, HELD_LIMIT_S + 1, True),
        (True, HELD_LIMIT_S, HELD_LIMIT_S, False),
        (True, None, None, False),
        (False, HELD_LIMIT_S + 1, HELD_LIMIT_S + 1, False),  # opened ahead long ago, and readers do go on
    ],
)
def test_an_open_transaction_that_holds_back_readers(
    stuck: bool, silent_s: float | None, open_s: float | None, wrong: bool
) -> None:
    state = replace(HEALTHY, holds=(Hold("events-partition-3", 2, stuck, silent_s, "(0,43)", open_s),))
    assert bool(diagnose(state)) is wrong
    if wrong:
        assert only(state).what == (
            "an open transaction (0,43) has held back the readers of events-partition-3 for up to 11 s"
        )


def test_a_hold_by_a_transaction_that_no_coordinator_knows() -> None:
    state = replace(HEALTHY, holds=(Hold("events-partition-3", 1, True, 60.0, "", None),))
    assert only(state).what.startswith("an open transaction has held back")


@pytest.mark.parametrize(
    ("next_sequence", "last", "lag"),
    [(10, 9, 0), (4, 9, 6), (0, NO_EVENT, 0), (12, 9, -2), (None, 9, None), (4, None, None)],
)
def test_the_index_may_be_behind_and_must_not_be_ahead(
    next_sequence: int | None, last: int | None, lag: int | None
) -> None:
    state = replace(HEALTHY, index=IndexState(next_sequence), last_sequence=last)
    assert state.index_lag == lag
    assert bool(diagnose(state)) is (lag is not None and lag < 0)
    if lag == -2:
        assert only(state).what == "the index knows 2 events that are not in events"


def test_several_problems_are_all_told() -> None:
    state = with_ownership(None, 6, 0, index=IndexState(99), backlog=Backlog(False, 0, None, None), unknown=("x",))
    assert len(diagnose(state)) == 5


# --- the topics ---

SOUND = TopicsState(
    partitions={"submitted_events": 4, "events": 4, "rejected_events": 4, "sequencer_owners": 4},
    retention={"events": dict(FOR_EVER), "sequencer_owners": {**FOR_EVER, "a newer field": 1}},
    compaction_threshold=100,
    deduplication={"events": False, "rejected_events": None},
)


def test_sound_topics() -> None:
    assert diagnose_topics(SOUND) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"partitions": {"events": 0, "submitted_events": 4}}, "there is no partitioned topic events"),
        ({"partitions": {"events": 2, "submitted_events": 4}}, "the topics do not have the same number of partitions"),
        ({"retention": {"events": None}}, "events is not kept for ever: its retention is None"),
        ({"retention": {"events": {**FOR_EVER, "retentionSizeInMB": 5}}}, "events is not kept for ever"),
        ({"compaction_threshold": 0}, "events is never compacted"),
        ({"deduplication": {"events": True}}, "deduplication is on for events"),
        ({"message_ttl_s": 60}, "the broker drops submitted events that have waited 60 s"),
        ({"unknown": ("retention of events: 401",)}, "could not be found out: retention of events: 401"),
    ],
)
def test_what_is_wrong_with_topics(changed: dict[str, Any], told: str) -> None:
    (problem,) = diagnose_topics(replace(SOUND, **changed))
    assert told in problem.what
    assert problem.remedy


def test_what_could_not_be_found_out_about_topics_is_no_second_problem() -> None:
    assert diagnose_topics(TopicsState(partitions={}, retention={}, deduplication={})) == []


# --- the document that the remedies name ---

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def failures_below(root: type[Exception]) -> set[str]:
    return {root.__name__}.union(*(failures_below(child) for child in root.__subclasses__()))


def test_every_failure_that_stops_a_partition_is_explained() -> None:
    stopping = failures_below(NeedsOperator) - {"NeedsOperator"}
    assert {"ForeignWriter", "IndexAhead", "OwnerLogBroken"} <= stopping
    headings = " ".join(line for line in OPERATIONS.splitlines() if line.startswith("### "))
    for name in stopping | {"IndexMismatch", "Superseded", "TopicMissing", "PartitionsFixed"}:
        assert name in headings


def test_every_failure_of_an_index_is_mentioned() -> None:
    for name in failures_below(IndexFailure) - {"IndexFailure", "IndexHeld"}:
        assert name in OPERATIONS


# --- as it is shown ---


def test_a_row_for_people() -> None:
    assert partition_row(HEALTHY) == [
        *("3", "host-a pid 41", "7", "2023-11-14T22:12:20", "<= 1"),
        *("2 (1 s)", "9", "level", "duplicate 2 misrouted 1", "events 1"),
    ]


def test_a_row_of_what_is_not_known() -> None:
    assert partition_row(PartitionState(number=0, now_ms=0)) == ["0", "?", "?", "-", "?", "?", "?", "", "?", "-"]


def test_a_row_of_an_untouched_partition() -> None:
    state = PartitionState(
        number=0,
        now_ms=0,
        ownership=Ownership(None, None, 0),
        backlog=Backlog(True, 0, None, None),
        last_sequence=NO_EVENT,
        index=IndexState(None),
        rejections=Rejections({}, 900, False),
    )
    assert partition_row(state) == ["0", "none", "-", "-", "-", "-", "-", "to be built", "- or more", "-"]


def test_rows_of_owners_that_are_not_on_record() -> None:
    assert partition_row(with_ownership(OURS, 8, 0))[1:4] == [
        "10.0.0.1:1234 (nothing judged yet)",
        "8",
        "2026-11-24T12:26:16",
    ]
    assert partition_row(with_ownership(None, 7, 0))[1] == "none (last: host-a pid 41)"


@pytest.mark.parametrize(("last", "text"), [(None, "at 4"), (9, "6 behind"), (3, "level")])
def test_the_index_for_people(last: int | None, text: str) -> None:
    assert partition_row(replace(HEALTHY, index=IndexState(4), last_sequence=last))[7] == text


def test_json_of_a_healthy_partition() -> None:
    assert partition_as_json(HEALTHY) == {
        "partition": 3,
        "owned": True,
        "owner": {"host": "host-a", "pid": 41, "epoch": 7, "since_ms": NOW_MS - 60_000},
        "producer": {"address": "10.0.0.1:1234", "since": OURS.since, "client": OUR_CLIENT},
        "epoch": 7,
        "last_record": RECORD._asdict(),
        "standbys_at_most": 1,
        "backlog_entries": 2,
        "backlog_oldest_s": 1.0,
        "last_sequence": 9,
        "index_next_sequence": 10,
        "index_lag": 0,
        "rejections": {"duplicate": 2, "misrouted": 1},
        "rejections_window_s": 900,
        "rejections_complete": True,
        "holds": [{**HEALTHY.holds[0]._asdict(), "held_s": 0.0}],
        "problems": [],
    }


def test_json_of_what_is_not_known_has_the_same_fields() -> None:
    empty = partition_as_json(PartitionState(number=0, now_ms=0))
    assert empty.keys() == partition_as_json(HEALTHY).keys()
    known = {name: value for name, value in empty.items() if value is not None}
    assert known == {"partition": 0, "holds": [], "problems": []}


def test_json_of_problems() -> None:
    problems = partition_as_json(with_ownership(None, 7, 0))["problems"]
    assert isinstance(problems, list)
    assert [set(problem) for problem in problems] == [{"what", "remedy"}]
