"""The plots in docs/benchmarks, drawn from the results in bench/results; the same results give the same files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from bench.charts import Bar, Curve, Draw, bars, curves, distribution, save
from bench.origin import ROOT
from bench.report import Spread
from bench.result import RESULTS, Result, read_results
from sequencer import SequencerError

PLOTS = ROOT / "docs" / "benchmarks"
EVENTS_PER_S = "events per second"
OURS, REFERENCE, OTHER, ANOTHER = 0, 1, 2, 3
"""Colours."""

Results = Mapping[str, Result]
"""By their benchmarks' names."""


class NothingToDraw(SequencerError):
    """There is no result at all."""


def plots(results: Results) -> Iterator[tuple[str, Draw]]:
    """Every plot that these results are enough for: its name, and how to draw it."""
    for benchmark, plot in PLOT_OF.items():
        if result := results.get(benchmark):
            yield benchmark, plot(result)


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


def _takeover(result: Result) -> Draw:
    steps = {"first new commit": "first_commit_ms", "granted": "granted_ms", "sequencing": "sequencing_ms"}
    values = {label: result.figures[name]["values"] for label, name in steps.items()}
    struck = "SIGSTOP" if result.workload["freeze"] else "kill -9"
    title = f"Takeover: {result.figures['first_commit_ms']['runs']} rounds at {result.workload['rate']:,} events/s"
    return distribution(title, f"milliseconds since {struck}", "share of rounds", values)


def _curve(result: Result, x: str, figure: str, at: Mapping[str, object]) -> list[tuple[float, Spread]]:
    """One figure over x, of the points that have all this."""
    return [
        (float(point.at[x]), point.figures[figure])
        for point in result.series
        if all(point.at.get(name) == value for name, value in at.items())
    ]


PLOT_OF = {
    "ceiling": _ceiling,
    "at-least-once": _at_least_once,
    "matrix": _matrix,
    "latency": _latency,
    "takeover": _takeover,
}


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
    default=PLOTS,
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
