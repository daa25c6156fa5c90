"""Latency: how long after its time an accepted event is there, at fixed rates, beside a plain publish and consume.

Open loop: every event has a time at which it is due, and its latency counts from then, so that whoever is slow cannot
slow the question down (coordinated omission). One publisher process sends the events of both kinds, one onlooker
process, on the official client, consumes both, in turns:

- plain: published to a topic, consumed from it. What the broker itself takes, and nothing can be faster.
- sequenced: published to `submitted_events`, consumed from `events`.

Every run gives a histogram (HdrHistogram, microseconds); percentiles are those of all runs of a kind together, and
their spread is that of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import click
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.line_child import LineChild
from bench.onlooker import empty_histogram
from bench.report import Point, Spread, hand_over, spreads
from bench.schedule import NS_PER_S, Schedule, entry_events
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.usage import cpu_seconds
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker

RATES = (10, 100, 1_000, 10_000, 30_000)
PATHS = ("plain", "sequenced")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}

WARM_UP_RATE_MIN = 1_000
"""Events per second: at a lower rate Java would still interpret much of the broker when the first run begins."""

LEAD_S = 0.25
"""From the moment at which everybody is ready to the first event."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rates: tuple[int, ...]
    """Events per second, one after the other, each on topics of its own."""
    seconds: float
    """Of one run."""
    events_min: int
    """Of one run: at a low rate it takes longer."""
    warm_up_seconds: float
    runs: int
    """Of each kind, at each rate."""
    event_bytes: int = 160
    """Payload of one event."""
    aggregates: int = 100_000

    def events(self, rate: int) -> int:
        """Of one run: whole entries."""
        return _whole_entries(max(rate * self.seconds, self.events_min), rate)

    def warm_up_events(self, rate: int) -> int:
        """Before the runs, of each kind."""
        return _whole_entries(max(rate, WARM_UP_RATE_MIN) * self.warm_up_seconds, rate)

    @property
    def expected_seconds(self) -> float:
        """How long all runs take, about."""
        run_seconds = sum(self.events(rate) / rate + LEAD_S for rate in self.rates)
        return len(PATHS) * (run_seconds * self.runs + (self.warm_up_seconds + LEAD_S) * len(self.rates))


def _whole_entries(events: float, rate: int) -> int:
    size = entry_events(rate)
    return max(1, round(events / size)) * size


class Run(NamedTuple):
    """One run of one kind."""

    latency: HdrHistogram
    """Microseconds from when an event was due to its arrival at the onlooker."""
    seconds: float
    sent_late_ms: float
    """Of 99 of 100 entries: how long after its time the publisher sent it. It is part of the latency."""
    cpu_s: Mapping[str, float]
    """While the run lasted: of the broker, the sequencer, the publisher and the onlooker."""


class AtRate(NamedTuple):
    """All runs at one rate, pairwise."""

    rate: int
    plain: list[Run]
    sequenced: list[Run]
    peak_memory_mib: float
    """Of the sequencer."""


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> list[AtRate]:
    """Every rate on topics of its own, with a sequencer of its own; the broker is the same."""
    task = progress.add_task("latency", total=plan.expected_seconds)
    results = []
    for rate in plan.rates:
        progress.update(task, description=f"latency, {rate:,}/s")
        (directory / str(rate)).mkdir()
        results.append(
            _at_rate(plan, rate, broker, directory / str(rate), lambda seconds: progress.advance(task, seconds))
        )
    return results


def _at_rate(
    plan: Plan, rate: int, broker: EmbeddedBroker, directory: Path, advance: Callable[[float], None]
) -> AtRate:
    topics = make_topics(broker, f"latency-{rate}")
    plain = f"persistent://{topics.namespace}/plain"
    with Admin(broker.admin_url) as admin:
        admin.put(f"v2/{plain.replace('://', '/')}")
    paths = ((plain, plain), (topics.submitted_partition(0), topics.events_partition(0)))
    runs: tuple[list[Run], list[Run]] = ([], [])
    with ExitStack() as stack:
        sequencer = SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")
        stack.callback(sequencer.end)
        sequencer.await_line(SEQUENCING)
        publisher = LineChild("bench.due_publisher", broker.service_url, plan.aggregates, plan.event_bytes)
        onlooker = LineChild("bench.onlooker", broker.service_url)
        pids = {"broker": broker.pid, "sequencer": sequencer.pid}
        loop = OpenLoop(stack.enter_context(publisher), stack.enter_context(onlooker), pids)
        warm_up = plan.warm_up_events(rate)
        for path in paths:
            loop.run(*path, first=0, events=warm_up, rate=max(rate, WARM_UP_RATE_MIN))
            advance(plan.warm_up_seconds + LEAD_S)
        for number in range(plan.runs):
            first = warm_up + number * plan.events(rate)
            for path, kind in zip(paths, runs, strict=True):
                kind.append(loop.run(*path, first=first, events=plan.events(rate), rate=rate))
                advance(plan.events(rate) / rate + LEAD_S)
        usage = sequencer.stop()
    return AtRate(rate, *runs, usage.peak_memory_mib)


# --- one run ---


class OpenLoop:
    """A publisher and an onlooker, each a process of its own, that work through one schedule after another."""

    def __init__(self, publisher: LineChild, onlooker: LineChild, pids: Mapping[str, int]) -> None:
        """`pids` are the other processes whose CPU is counted, by name."""
        self._publisher = publisher
        self._onlooker = onlooker
        self._pids = {**pids, "publisher": publisher.pid, "onlooker": onlooker.pid}

    def run(self, published: str, consumed: str, *, first: int, events: int, rate: int) -> Run:
        """Publish events to one topic, await them at another (or the same), and return when all have arrived.

        Raises:
            RuntimeError: one of the two failed; on standard error it has said why.
        """
        self._onlooker.tell(consumed)
        self._publisher.tell(published)
        self._onlooker.await_ready()
        self._publisher.await_ready()
        schedule = Schedule(first, events, rate, time.monotonic_ns() + int(LEAD_S * NS_PER_S))
        self._onlooker.tell(schedule.to_json())
        self._publisher.tell(schedule.to_json())
        before = self._cpu_s()
        sent, seen = self._publisher.hear_report(), self._onlooker.hear_report()
        return Run(
            latency=HdrHistogram.decode(seen["histogram"]),
            seconds=(time.monotonic_ns() - schedule.began_ns) / NS_PER_S,
            sent_late_ms=sent["late_p99_ms"],
            cpu_s={name: used - before[name] for name, used in self._cpu_s().items()},
        )

    def _cpu_s(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}


# --- figures ---


def percentiles_ms(latency: HdrHistogram) -> dict[str, float]:
    """Of one histogram, in milliseconds."""
    return {name: latency.get_value_at_percentile(value) / 1000 for name, value in PERCENTILES.items()}


def merged(runs: Sequence[Run]) -> dict[str, float]:
    """The percentiles of all runs' latencies in one histogram, in milliseconds."""
    together = empty_histogram()
    for run in runs:
        together.add(run.latency)
    return percentiles_ms(together)


def series(results: Sequence[AtRate]) -> list[Point]:
    """Three points for each rate: plain, sequenced, and the second by the first (`ratio`)."""
    points = []
    for rate, plain, sequenced, peak_memory_mib in results:
        memory = spreads([{"peak_memory_mib": round(peak_memory_mib, 1)}])
        points += [
            Point({"rate": rate, "path": "plain"}, figures(plain)),
            Point({"rate": rate, "path": "sequenced"}, figures(sequenced) | memory),
            Point({"rate": rate, "path": "ratio"}, _ratio_figures(plain, sequenced)),
        ]
    return points


def figures(runs: Sequence[Run]) -> dict[str, Spread]:
    """Of the runs one by one, and `merged` of all their events together. CPU is per cent of one core."""
    one_by_one = [
        {
            **{f"{name}_ms": value for name, value in percentiles_ms(run.latency).items()},
            "sent_late_p99_ms": round(run.sent_late_ms, 3),
            **{f"{name}_cpu_percent": round(seconds / run.seconds * 100, 1) for name, seconds in run.cpu_s.items()},
        }
        for run in runs
    ]
    together = {f"merged_{name}_ms": value for name, value in merged(runs).items()}
    return spreads(one_by_one) | spreads([together])


def _ratio_figures(plain: Sequence[Run], sequenced: Sequence[Run]) -> dict[str, Spread]:
    pairs = zip(plain, sequenced, strict=True)
    one_by_one = [ratios(percentiles_ms(one.latency), percentiles_ms(other.latency)) for one, other in pairs]
    together = {f"merged_{name}": value for name, value in ratios(merged(plain), merged(sequenced)).items()}
    return spreads(one_by_one) | spreads([together])


def ratios(plain: Mapping[str, float], sequenced: Mapping[str, float]) -> dict[str, float]:
    """Percentile by percentile."""
    return {f"{name}_ratio": round(sequenced[name] / plain[name], 2) for name in PERCENTILES}


def show(results: Sequence[AtRate]) -> None:
    """The percentiles of all runs together, on standard error: standard output may be for the figures in JSON."""
    table = Table("events/s", "", *PERCENTILES, title="latency of all runs together, ms")
    for rate, plain, sequenced, _ in results:
        rows = {"plain": merged(plain), "sequenced": merged(sequenced)}
        for name, row in (rows | {"ratio": ratios(*rows.values())}).items():
            table.add_row(f"{rate:,}", name, *(f"{value:,}" for value in row.values()))
        table.add_section()
    Console(stderr=True).print(table)


@click.command("latency")
@click.option("--rate", "rates", type=click.IntRange(1, 1_000_000), multiple=True, help="Events/s; may be repeated.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Of one run.")
@click.option("--events-min", type=click.IntRange(1), default=300, show_default=True, help="Of one run, however long.")
@click.option("--warm-up-seconds", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Of each kind, at each rate.")
@broker_options
def command(
    rates: tuple[int, ...],
    seconds: float,
    events_min: int,
    warm_up_seconds: float,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """From when an event is due to its arrival at a consumer, at fixed rates, sequenced and plain.

    \b
    Example:  python -m bench latency --rate 100 --rate 10000 --runs 3
    """
    plan = Plan(rates or RATES, seconds, events_min, warm_up_seconds, runs)
    with stage(full_compiler) as (directory, broker, progress):
        results = measure(plan, broker, directory=directory, progress=progress)
    show(results)
    title = f"latency, {runs} runs of each kind"
    hand_over("latency", title, asdict(plan), {}, json_file, series=series(results))
