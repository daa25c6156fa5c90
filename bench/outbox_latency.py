"""How long after its time an event is there, with an outbox whose relay is notified, beside the sequencer.

The open loop is that of the latency benchmark, with the same onlooker; for the outbox a writer that appends to
PostgreSQL (due_appender.py) takes the publisher's place. Each path has its turn in each run:

- plain: published to a topic, consumed from it.
- sequenced: published to `submitted_events`, consumed from `events`.
- outbox: appended to PostgreSQL, published by the relay, consumed from its topic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.latency import OpenLoop, Run, figures
from bench.line_child import LineChild
from bench.report import Point
from bench.sql_store import SqlStore, Stored
from sequencer.broker import EmbeddedBroker

PATHS = ("plain", "sequenced", "outbox")

WARM_UP_RATE = 500
"""Events per second."""


@dataclass(frozen=True)
class LatencyPlan:
    """What is measured of each path."""

    rate: int
    """Events per second, each by itself."""
    events: int
    """Of one run."""
    warm_up_events: int
    runs: int


class Ways(NamedTuple):
    """The topics by which events come and go; nothing has been published there by this benchmark's publisher."""

    plain: str
    submitted: str
    events: str
    outbox: str


def measure(
    plan: LatencyPlan,
    broker: EmbeddedBroker,
    sequencer_pid: int,
    store: SqlStore,
    stored: Stored,
    ways: Ways,
    advance: Callable[[], object],
) -> list[Point]:
    """One point for each path. Calls `advance` after each run, of the warm-up too."""
    with (
        LineChild("bench.onlooker", broker.service_url) as onlooker,
        LineChild("bench.due_publisher", broker.service_url, *stored) as publisher,
        LineChild("bench.due_appender", store.conninfo, *stored) as writer,
    ):
        published = OpenLoop(publisher, onlooker, {"broker": broker.pid, "sequencer": sequencer_pid})
        appended = OpenLoop(writer, onlooker, {"broker": broker.pid, "relay": store.relay.pid})
        runs: dict[str, list[Run]] = {path: [] for path in PATHS}
        first = 0
        for number in range(plan.runs + 1):
            rate, events = (plan.rate, plan.events) if number else (WARM_UP_RATE, plan.warm_up_events)
            plain = published.run(ways.plain, ways.plain, first=first, events=events, rate=rate)
            runs["plain"].append(plain)
            advance()
            sequenced = published.run(ways.submitted, ways.events, first=first, events=events, rate=rate)
            runs["sequenced"].append(sequenced)
            advance()
            store.relay.tell(f"{events} notified")
            store.relay.await_ready()
            mine = store.number(events)
            runs["outbox"].append(appended.run(ways.outbox, ways.outbox, first=mine, events=events, rate=rate))
            store.relay.hear_report()
            advance()
            first += events
    return [Point({"path": path, "rate": plan.rate}, figures(found[1:])) for path, found in runs.items()]
