"""What a benchmark hands over: figures over several runs, as a table for people and as JSON for everything else.

A report, as JSON (a *result file*; `compare`, `table` and `plots` read it):

    benchmark   its name on the command line
    when        it began: UTC, ISO 8601
    commit      as git describes it, "-dirty" where the code was another, or changed meanwhile; "unknown" outside a
                checkout
    versions    of Python, the broker, Java and the packages that take part
    machine     processor, cores, memory, system
    workload    what was measured: two reports with the same benchmark and workload can be compared
    figures     {name: {"median", "min", "max", "p90", "runs": how many, "values": of every run, in order}}
    series      only where the benchmark measures several points, such as rates or systems:
                [{"at": {name: what tells this point from the others}, "figures": as above}, ...]

A figure's name ends with its unit: events_per_s, p99_ms, cpu_us_per_event, peak_memory_mib.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.origin import origin

KINDS = ("median", "min", "max", "p90")
STANDARD_OUTPUT = Path("-")
At = Mapping[str, str | int | float]


class Spread(TypedDict):
    """One figure over all runs."""

    median: float
    min: float
    max: float
    p90: float
    """Nine of ten runs stay below."""
    runs: int
    values: list[float]
    """Of every run, in their order."""


class Point(NamedTuple):
    """One point of a series: a rate, a number of partitions, a system; and its figures over all runs there."""

    at: At
    """What tells it from the others, such as {"rate": 1000, "path": "sequencer"}."""
    figures: Mapping[str, Spread]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; as precise as the values are."""
    nine_tenths = statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]
    return {
        "median": round(statistics.median(values), 3),
        "min": min(values),
        "max": max(values),
        "p90": round(nine_tenths, 3),
        "runs": len(values),
        "values": list(values),
    }


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Every figure over all runs that have it, in the order of their first appearance."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: spread([run[name] for run in runs if name in run]) for name in names}


def hand_over(
    benchmark: str,
    title: str,
    workload: Mapping[str, Any],
    figures: Mapping[str, Spread],
    json_file: Path | None,
    *,
    series: Sequence[Point] = (),
    versions: Mapping[str, str] | None = None,
) -> None:
    """Print the table, and write the JSON where asked. "-" is standard output, the table then goes to standard error.

    Args:
        workload: all that two reports must have in common to be comparable; nothing that changes from run to run.
        figures: of the benchmark as a whole, by `spreads`; may be empty where there is a series.
        series: one `Point(at, spreads(runs))` for each rate, size or system that was measured:

            hand_over("latency", title, asdict(plan), {}, json_file, series=[
                Point({"rate": 100, "path": "sequencer"}, spreads([{"p50_ms": 5.1, "p99_ms": 9.0}, ...])),
                Point({"rate": 100, "path": "plain"}, spreads([{"p50_ms": 1.1, "p99_ms": 2.0}, ...])),
            ])

        versions: of what only this benchmark has besides, such as {"postgresql": "16.2"}.
    """
    report = {"benchmark": benchmark, **origin(versions or {}), "workload": dict(workload), "figures": dict(figures)}
    if series:
        report["series"] = [{"at": dict(point.at), "figures": dict(point.figures)} for point in series]
    _show(title, figures, series, Console(stderr=json_file == STANDARD_OUTPUT))
    if json_file:
        write_json(report, json_file)


def write_json(report: Mapping[str, Any], file: Path) -> None:
    """Into a file, whose directory is made where it is missing, or to standard output ("-")."""
    if file == STANDARD_OUTPUT:
        click.echo(_json(report))
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_json(report) + "\n")


def at_text(at: At) -> str:
    """ "rate 1,000, path sequencer" """
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in at.items())


def number_text(value: float) -> str:
    """ "1,000", "0.25" """
    return f"{int(value) if float(value).is_integer() else value:,}"


def _show(title: str, figures: Mapping[str, Spread], series: Sequence[Point], console: Console) -> None:
    console.print(title, style="bold", highlight=False)
    if figures:
        console.print(_table(figures))
    for point in series:
        console.print(f"\n{at_text(point.at)}", style="italic", highlight=False)
        console.print(_table(point.figures))


def _table(figures: Mapping[str, Spread]) -> Table:
    table = Table("figure", box=box.SIMPLE_HEAD, pad_edge=False)
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for name, found in figures.items():
        table.add_row(name, *map(number_text, (found["median"], found["min"], found["max"], found["p90"])))
    return table


def _json(report: Mapping[str, Any]) -> str:
    """Indented, but a list of plain values in one line: those of fifty runs would fill pages."""
    # A line break stands in no JSON string: what starts with a bracket and one is a list.
    return re.sub(r"\[\n[^\[\]{}]*\]", _in_one_line, json.dumps(report, indent=2))


def _in_one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r"\n\s*", " ", found[0][1:-1]).strip() + "]"
