"""How long after its time an event is there, with an outbox whose relay is notified, beside the sequencer. Open loop.

The onlooker, the schedule and the publisher are those of the latency benchmark; in place of the publisher a writer
appends to the SQL event store (due_appender.py). Each path has its turn in each run:

- plain: published to a topic, consumed from it.
- sequenced: published to `submitted_events`, consumed from `events`.
- outbox: appended to PostgreSQL, published by the relay, consumed from its topic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hdrh.histogram import HdrHistogram

from bench.latency import LEAD_S, percentiles_ms
from bench.line_child import LineChild
from bench.onlooker import empty_histogram
from bench.report import Point, Spread, spreads
from bench.schedule import NS_PER_S, Schedule
from bench.sql_store import SqlStore, Stored

PATHS = ("plain", "sequenced", "outbox")

WARM_UP_RATE = 500
"""Events per second."""


@dataclass(frozen=True)
class LatencyPlan:
    """What is measured of each path."""

    rate: int
    """Events per second."""
    events: int
    """Of one run."""
    warm_up_events: int
    runs: int


class Route(NamedTuple):
    """Where events of one path go in and come out, and who sends them."""

    path: str
    publisher: LineChild
    published: str
    consumed: str


class Run(NamedTuple):
    """One run of one path."""

    latency: HdrHistogram
    """Microseconds."""
    sent_late_ms: float
    """Of 99 of 100 events: how long after its time its publisher turned to it. It is part of the latency."""


class Ways(NamedTuple):
    """The topics."""

    plain: str
    submitted: str
    events: str
    outbox: str


def measure(
    plan: LatencyPlan,
    service_url: str,
    conninfo: str,
    ways: Ways,
    store: SqlStore,
    stored: Stored,
    advance: Callable[[], None],
) -> list[Point]:
    """One point for each path. Calls `advance` after each run, of the warm-up too."""
    with (
        LineChild("bench.onlooker", service_url) as onlooker,
        LineChild("bench.due_publisher", service_url, *stored) as publisher,
        LineChild("bench.due_appender", conninfo, *stored) as writer,
    ):
        routes = (
            Route("plain", publisher, ways.plain, ways.plain),
            Route("sequenced", publisher, ways.submitted, ways.events),
            Route("outbox", writer, ways.outbox, ways.outbox),
        )
        runs: dict[str, list[Run]] = {route.path: [] for route in routes}
        for number in range(plan.runs + 1):
            rate, events = (plan.rate, plan.events) if number else (WARM_UP_RATE, plan.warm_up_events)
            first = plan.warm_up_events + (number - 1) * plan.events if number else 0
            for route in routes:
                relay = store.relay if route.publisher is writer else None
                mine = store.number(events) if relay else first
                runs[route.path].append(_run(route, onlooker, relay, first=mine, events=events, rate=rate))
                advance()
    return [Point({"path": path, "rate": plan.rate}, _figures(found[1:])) for path, found in runs.items()]


def _run(route: Route, onlooker: LineChild, relay: LineChild | None, *, first: int, events: int, rate: int) -> Run:
    """Send so many events, await them, and return when all have arrived."""
    onlooker.tell(route.consumed)
    route.publisher.tell(route.published)
    onlooker.await_ready()
    route.publisher.await_ready()
    if relay:
        relay.tell(f"{events} notified")
        relay.await_ready()
    schedule = Schedule(first, events, rate, time.monotonic_ns() + int(LEAD_S * NS_PER_S)).to_json()
    onlooker.tell(schedule)
    route.publisher.tell(schedule)
    sent, seen = route.publisher.hear_report(), onlooker.hear_report()
    if relay:
        relay.hear_report()
    return Run(HdrHistogram.decode(seen["histogram"]), sent["late_p99_ms"])


def _figures(runs: Sequence[Run]) -> dict[str, Spread]:
    """Percentiles of each run, and `merged` those of all runs together."""
    together = empty_histogram()
    for run in runs:
        together.add(run.latency)
    of_runs = [_percentiles(run.latency) | {"sent_late_p99_ms": round(run.sent_late_ms, 3)} for run in runs]
    return spreads(of_runs) | spreads([{f"merged_{name}": value for name, value in _percentiles(together).items()}])


def _percentiles(latency: HdrHistogram) -> dict[str, float]:
    return {f"{name}_ms": value for name, value in percentiles_ms(latency).items()}
