"""The plots in docs/benchmarks, drawn from the results in bench/results; the same results give the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from bench.charts import Bar, Curve, Draw, bars, curves, distribution, save
from bench.origin import ROOT
from bench.report import At, Spread
from bench.result import RESULTS, Result, read_results
from sequencer import SequencerError

DIRECTORY = ROOT / "docs" / "benchmarks"
EVENTS_PER_S = "events per second"
OURS, REFERENCE, OTHER = 0, 1, 2
"""Colours."""


class NothingToDraw(SequencerError):
    """There is no result at all."""


class Plot(NamedTuple):
    """What is drawn of a benchmark's result."""

    name: str
    """Of its files."""
    benchmark: str
    of: Callable[[Result], Draw]


def plots(results: Mapping[str, Result]) -> Iterator[tuple[str, Draw]]:
    """Every plot that these results, by their benchmarks' names, are enough for: its name, and how to draw it."""
    for plot in PLOTS:
        if result := results.get(plot.benchmark):
            yield plot.name, plot.of(result)


def _ceiling(result: Result) -> Draw:
    rows = [
        Bar("relay, opens no entry", result.figures["relay_events_per_s"], REFERENCE),
        Bar("sequencer", result.figures["sequencer_events_per_s"], OURS),
    ]
    return bars("The sequencer and its ceiling: one partition, one process", EVENTS_PER_S, rows)


def _at_least_once(result: Result) -> Draw:
    rows = [
        Bar("at least once", result.figures["at_least_once_events_per_s"], REFERENCE),
        Bar("exactly once", result.figures["exactly_once_events_per_s"], OURS),
    ]
    return bars("The price of exactly-once: the same loop without transactions", EVENTS_PER_S, rows)


def _matrix(result: Result) -> Draw:
    rows = []
    for point in result.series:
        ours = point.at["program"] == "sequencer"
        label = str(point.at["cell"]) if ours else f"{point.at['cell']}: {point.at['program']}"
        rows.append(Bar(label, point.figures["events_per_s"], OURS if ours else REFERENCE))
    return bars("One thing changed at a time, and the relay where it was measured", EVENTS_PER_S, rows)


def _latency(result: Result) -> Draw:
    lines = []
    for path, colour in (("plain", REFERENCE), ("sequenced", OURS)):
        for name, style in (("p50", "-"), ("p99", "--"), ("p99.9", ":")):
            points = _curve(result, "rate", f"{name}_ms", {"path": path})
            lines.append(Curve(f"{path}, {name}", points, colour, style))
    title = "Latency: from when an event is due to its arrival at a consumer"
    return curves(title, "events per second", {"milliseconds": lines}, log_y=True)


def _alternatives(result: Result) -> Draw:
    rows = []
    for point in result.series:
        at = point.at
        match at.get("system"):
            case "table" | "outbox" as system:
                label = f"{'PostgreSQL' if system == 'table' else 'with outbox, relayed'}: {_shape(at)}"
                rows.append(Bar(label, point.figures["events_per_s"], REFERENCE if system == "table" else OTHER))
            case "append":
                rows.append(Bar(f"sequencer: {_appends(int(at['at_once']))}", point.figures["events_per_s"], OURS))
            case "publish":
                rows.append(Bar("sequencer: published", point.figures["events_per_s"], OURS))
    return bars("An event store on PostgreSQL, and the sequencer", EVENTS_PER_S, rows)


def _shape(at: At) -> str:
    connections = f"{at['connections']} connection{'s' if at['connections'] != 1 else ''}"
    return connections if at["per_transaction"] == 1 else f"{connections}, batches of {at['per_transaction']:,}"


def _appends(at_once: int) -> str:
    return "appends, one after the other" if at_once == 1 else f"{at_once:,} appends at once"


def _alternatives_latency(result: Result) -> Draw:
    labels = {
        "plain": ("publish and consume", REFERENCE),
        "sequenced": ("sequencer", OURS),
        "outbox": ("PostgreSQL and outbox", OTHER),
    }
    rows = []
    for point in result.series:
        if path := str(point.at.get("path", "")):
            label, colour = labels[path]
            rows += [Bar(f"{label}, {name}", point.figures[f"{name}_ms"], colour) for name in ("p50", "p99")]
    return bars("From when an event is due to its arrival at a consumer", "milliseconds", rows)


def _micro(result: Result) -> Draw:
    """The largest batches only: those under load."""
    largest = max(result.series, key=lambda point: int(point.at["events_per_entry"]))
    rows = [Bar(name.removesuffix("_ns").replace("_", " "), found) for name, found in largest.figures.items()]
    return bars(f"Each step by itself, in batches of {largest.at['events_per_entry']:,}", "nanoseconds per event", rows)


def _takeover(result: Result) -> Draw:
    steps = {"first new commit": "first_commit_ms", "granted": "granted_ms", "sequencing": "sequencing_ms"}
    values = {label: result.figures[name]["values"] for label, name in steps.items()}
    struck = "SIGSTOP" if result.workload["freeze"] else "kill -9"
    title = f"Takeover: {result.figures['first_commit_ms']['runs']} rounds at {result.workload['rate']:,} events/s"
    return distribution(title, f"milliseconds since {struck}", "share of rounds", values)


def _growth(result: Result) -> Draw:
    kinds = list(dict.fromkeys(str(point.at["access"]) for point in result.series))

    def lines(figure: str) -> list[Curve]:
        found = [_curve(result, "aggregates", figure, {"access": kind}) for kind in kinds]
        return [Curve(kind, points, colour) for kind, points, colour in zip(kinds, found, (OURS, OTHER), strict=False)]

    limit = Curve("limit", _curve(result, "aggregates", "limit_mib", {"access": kinds[0]}), REFERENCE, ":")
    panels = {
        EVENTS_PER_S: lines("events_per_s"),
        "bytes per aggregate": lines("tails_bytes_per_aggregate"),
        "memory, MiB": [*lines("memory_mib"), limit],
    }
    return curves("The index as it grows: look-ups, decisions, writes", "aggregates", panels)


def _curve(result: Result, x: str, figure: str, at: Mapping[str, object]) -> list[tuple[float, Spread]]:
    """One figure over x, of the points that have all this."""
    return [
        (float(point.at[x]), point.figures[figure])
        for point in result.series
        if all(point.at.get(name) == value for name, value in at.items())
    ]


PLOTS = (
    Plot("ceiling", "ceiling", _ceiling),
    Plot("at-least-once", "at-least-once", _at_least_once),
    Plot("matrix", "matrix", _matrix),
    Plot("latency", "latency", _latency),
    Plot("alternatives", "alternatives", _alternatives),
    Plot("alternatives-latency", "alternatives", _alternatives_latency),
    Plot("takeover", "takeover", _takeover),
    Plot("micro", "micro", _micro),
    Plot("growth", "growth", _growth),
)


@click.command("plots")
@click.option(
    "--results",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RESULTS,
    help="The directory with the results.  [default: bench/results]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    help="The directory for the plots.  [default: docs/benchmarks]",
)
def command(results: Path, out: Path) -> None:
    """Draw the results, as SVG in GitHub's light and dark colours.

    \b
    Example:  python -m bench plots
    """
    found = read_results(results)
    if not found:
        raise NothingToDraw(f"there is no result in {results}: make bench writes them")
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in plots(found):
        for file in save(name, draw, out):
            click.echo(file)
