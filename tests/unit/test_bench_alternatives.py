"""What the SQL event store is measured with: its events, who appends which, what its relay must have done."""

from __future__ import annotations

import json

import pytest

from bench.alternatives import Plan, events_of
from bench.appender import Job
from bench.event_table import event
from bench.line_child import LineChild
from bench.onlooker import NUMBER
from bench.outbox_latency import LatencyPlan
from bench.sql_store import Shape, check_relayed


@pytest.mark.parametrize("number", [0, 7, 100_000, 12_345_678])
def test_an_event_is_as_large_as_it_should_be_and_knows_its_number(number: int) -> None:
    row = event(number, aggregates=100_000, event_bytes=160)
    assert len(row.payload) == 160
    assert int(row.payload[NUMBER], 16) == number
    published = json.loads(row.payload)
    assert published == {"id": row.id, "version": row.version - 1, "data": json.loads(row.data)}


def test_versions_follow_each_other() -> None:
    rows = [event(number, aggregates=3, event_bytes=100) for number in range(7)]
    assert [(row.aggregate_id, row.version) for row in rows if row.aggregate_id == "aggregate-0"] == [
        ("aggregate-0", 0),
        ("aggregate-0", 1),
        ("aggregate-0", 2),
    ]


def test_writers_share_all_events_and_no_aggregate() -> None:
    jobs = [Job(40 + number, 140, 4, 20, 160, 1, outbox=False) for number in range(4)]
    shares = [list(Job.from_json(job.to_json()).events()) for job in jobs]
    assert sorted(row.id for share in shares for row in share) == [
        event(number, aggregates=20, event_bytes=160).id for number in range(40, 140)
    ]
    aggregates = [{row.aggregate_id for row in share} for share in shares]
    assert sum(map(len, aggregates)) == len(set.union(*aggregates)) == 20


@pytest.mark.parametrize("numbers", [[10, 11, 12, 13], [11, 10, 13, 12]])
def test_a_relay_that_did_its_work(numbers: list[int]) -> None:
    check_relayed(numbers, range(10, 14), 2)


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ([10, 11, 12], "3 of 4"),
        ([10, 12, 11, 11], "11 was relayed after event 11"),
        ([12, 10, 11, 13], "10 was relayed after event 12"),
        ([10, 11, 12, 14], "14 was relayed, and not appended"),
    ],
)
def test_a_relay_that_did_not(numbers: list[int], what: str) -> None:
    with pytest.raises(RuntimeError, match=what):
        check_relayed(numbers, range(10, 14), 2)


def test_runs_take_about_as_long() -> None:
    plan = Plan(100, 1000, 1000, LatencyPlan(100, 10, 10, 1), runs=1)
    single = [events_of(plan, Shape(outbox, connections, 1)) for outbox in (False, True) for connections in (1, 8)]
    assert single == [100, 300, 100, 300]
    assert [events_of(plan, Shape(outbox, 1, 1000)) for outbox in (False, True)] == [3000, 1000]


def test_a_child_that_ends_is_an_error() -> None:
    with LineChild("bench.not_there") as child, pytest.raises(RuntimeError, match=r"bench\.not_there ended with 1"):
        child.hear()
