"""Alternatives: what one would pick instead, an event store on PostgreSQL, beside the sequencer on the same machine.

In turns, on a real PostgreSQL and a real broker that the benchmark starts:

- table: PostgreSQL alone (event_table.py). Nobody is told of an event; who wants to know must query the table.
- outbox: the same, and the same transaction writes the event to an outbox, from where a relay with the official client
  publishes it to the broker. A rate counts events that the broker has confirmed.
- append: the sequencer, and a program that awaits the answer to every append, so many at once.
- publish: the sequencer, and a publisher that does not wait, as the throughput benchmark measures it.

And then how long after its time an event is there at a consumer (outbox_latency.py).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import Progress

from bench import outbox_latency
from bench.append import Busy, appends_at_once
from bench.outbox_latency import LatencyPlan
from bench.postgres import SETTINGS, Postgres
from bench.report import At, Point, hand_over, spreads
from bench.run import SEQUENCER, run_once
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
from bench.sql_store import BATCH_EVENTS, Shape, SqlStore, Stored
from bench.stage import broker_options, stage
from bench.workload import Workload
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.client import EventStore
from sequencer.names import Topics

NAME = "alternatives"
PER_TRANSACTION = (1, BATCH_EVENTS)
AT_ONCE = {1: 0.05, 8: 0.25, 1_000: 4.0}
"""How many appends are under way at the same time; and how many there are in one run, by those of one connection to
PostgreSQL, so that all take about as long."""

MORE = 3
"""For the same reason: several connections append so many times as much as one, and batches without an outbox hold so
many times as much in all as those that are relayed."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    appends: int
    """Of one run with one connection and one event per transaction."""
    batched: int
    """Events of one run in batches."""
    published: int
    """Events of one run of the sequencer with a publisher that does not wait."""
    latency: LatencyPlan
    runs: int
    stored: Stored = field(default_factory=lambda: Stored(aggregates=100_000, event_bytes=160))
    """What events are like, those of the publisher too."""
    connections: tuple[int, ...] = (1, 8)
    """How many connections to PostgreSQL append at the same time. Each number divides that of the aggregates."""


class Measured(NamedTuple):
    """What came of it."""

    postgres_version: str
    points: list[Point]


Figures = dict[str, float]


class Part(NamedTuple):
    """Something to be measured once per run."""

    at: At
    run: Callable[[int], Figures]
    """Told the number of the run."""


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> Measured:
    """Every part in every run, after one that warms everything up; and then the latencies."""
    topics = make_topics(broker, NAME)
    plain, outbox = (f"persistent://{topics.namespace}/{name}" for name in ("plain", "outbox"))
    with Admin(broker.admin_url) as admin:
        for topic in (plain, outbox):
            admin.put(f"v2/{topic.replace('://', '/')}")
    with ExitStack() as stack:
        sequencer = SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")
        stack.callback(sequencer.end)
        postgres = stack.enter_context(Postgres())
        store = stack.enter_context(SqlStore(postgres, broker, outbox, plan.stored, connections=max(plan.connections)))
        sequencer.await_line(SEQUENCING)
        parts = [*_sql(plan, store), *_appends(plan, broker, topics, sequencer.pid), _publish(plan, broker, directory)]
        task = progress.add_task(NAME, total=(plan.runs + 1) * (len(parts) + len(outbox_latency.PATHS)))
        advance = functools.partial(progress.advance, task)
        points = _in_turns(parts, plan.runs, advance)
        ways = outbox_latency.Ways(plain, topics.submitted_partition(0), topics.events_partition(0), outbox)
        points += outbox_latency.measure(plan.latency, broker, sequencer.pid, store, plan.stored, ways, advance)
        sequencer.stop()
    return Measured(postgres.version, points)


def _in_turns(parts: Sequence[Part], runs: int, advance: Callable[[], None]) -> list[Point]:
    figures: list[list[Figures]] = [[] for _ in parts]
    for number in range(runs + 1):
        for part, found in zip(parts, figures, strict=True):
            found.append(part.run(number))
            advance()
    return [Point(part.at, spreads(found[1:])) for part, found in zip(parts, figures, strict=True)]


# --- the parts ---


def _sql(plan: Plan, store: SqlStore) -> Iterator[Part]:
    for outbox in (False, True):
        for per_transaction in PER_TRANSACTION:
            for connections in plan.connections:
                shape = Shape(outbox, connections, per_transaction)
                at: At = {
                    "system": "outbox" if outbox else "table",
                    "connections": connections,
                    "per_transaction": per_transaction,
                }
                yield Part(at, functools.partial(_run_sql, store, shape, events_of(plan, shape)))


def _run_sql(store: SqlStore, shape: Shape, events: int, _: int) -> Figures:
    return store.run(shape, events)


def events_of(plan: Plan, shape: Shape) -> int:
    """Of one run, so that runs take about as long."""
    if shape.per_transaction > 1:
        return plan.batched * (1 if shape.outbox else MORE)
    return plan.appends * (MORE if shape.connections > 1 else 1)


def _appends(plan: Plan, broker: EmbeddedBroker, topics: Topics, sequencer_pid: int) -> Iterator[Part]:
    busy = Busy(sequencer_pid, broker.pid)
    for at_once, share in AT_ONCE.items():
        appends = max(at_once, int(plan.appends * share))
        at: At = {"system": "append", "at_once": at_once}
        yield Part(at, functools.partial(_run_appends, broker, topics, busy, at_once, appends))


def _run_appends(
    broker: EmbeddedBroker, topics: Topics, busy: Busy, at_once: int, appends: int, number: int
) -> Figures:
    async def appended() -> Figures:
        async with EventStore(service_url=broker.service_url, namespace=topics.namespace) as store:
            return await appends_at_once(store, f"append-{number}-{at_once}", busy, at_once=at_once, appends=appends)

    found = asyncio.run(appended())
    return {"events_per_s": found.pop("appends_per_s")} | found


def _publish(plan: Plan, broker: EmbeddedBroker, directory: Path) -> Part:
    workload = Workload(plan.published, plan.stored.event_bytes, plan.stored.aggregates)

    def published(number: int) -> Figures:
        place = directory / f"publish-{number}"
        place.mkdir()
        topics = make_topics(broker, f"{NAME}-{number}")
        return asyncio.run(run_once(SEQUENCER, broker, topics, workload, place)).figures()

    return Part({"system": "publish", "batch": workload.batch_messages}, published)


@click.command(NAME)
@click.option("--appends", type=click.IntRange(20), default=6_000, show_default=True, help="One after the other.")
@click.option("--batched", type=click.IntRange(1_000), default=100_000, show_default=True, help="Events in batches.")
@click.option("--published", type=click.IntRange(1_000), default=300_000, show_default=True, help="To the sequencer.")
@click.option("--rate", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Of the latencies, per s.")
@click.option("--latency-events", type=click.IntRange(10), default=400, show_default=True, help="Of one run.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one that warms up.")
@broker_options
def command(
    appends: int,
    batched: int,
    published: int,
    rate: int,
    latency_events: int,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """An event store on PostgreSQL, alone and with an outbox relayed to the same broker, beside the sequencer.

    \b
    Example:  python -m bench alternatives --runs 2 --appends 2000 --batched 50000
    """
    latency = LatencyPlan(rate, latency_events, warm_up_events=2 * outbox_latency.WARM_UP_RATE, runs=runs)
    plan = Plan(appends, batched, published, latency, runs)
    with stage(full_compiler) as (directory, broker, progress):
        measured = measure(plan, broker, directory=directory, progress=progress)
    hand_over(
        NAME,
        f"alternatives, {runs} runs",
        asdict(plan) | {"stored": plan.stored._asdict(), "postgresql": SETTINGS},
        {},
        json_file,
        series=measured.points,
        versions={"postgresql": measured.postgres_version},
    )
