"""The throughput matrix: one thing changed at a time around a base point, then partitions and processes.

Where the axis is the number of aggregates the index holds all of them before the start, so that ten million are really
looked up among ten million. Every point has as many events as make a run last some seconds. All points are measured in
turns, one run of each in every round: a machine that becomes slower meanwhile does so for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import Progress

from bench.report import Point, hand_over, spreads
from bench.run import ALONE, RELAY, SEQUENCER, Layout, Run, Subject
from bench.stage import broker_options, stage
from bench.turns import BROKER_SETTINGS, Turn, in_turns
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker

EVENTS = 800_000
"""Of the base point."""


class Cell(NamedTuple):
    """A point of the matrix."""

    name: str
    """What is different here; "base" where nothing is."""
    workload: Workload
    layout: Layout = ALONE
    with_relay: bool = False
    """Whether the relay is measured there too, to show whether the broker is what limits it."""
    beside: str = "base"
    """The point that it is compared with, round by round."""


def cells(events: int) -> list[Cell]:
    """All of them; `events` is the number at the base point, in all partitions together."""
    base = Workload(events)
    points = [Cell("base", base, with_relay=True)]
    for size, percent in ((100, 100), (1024, 40), (10_240, 4)):
        sized = replace(base, events=events * percent // 100, event_bytes=size)
        points.append(Cell(f"{size} bytes", sized, with_relay=size == 10_240))
    for count in (10**3, 10**5, 10**7):
        workload = replace(base, aggregates=count, existing=True)
        points.append(Cell(f"{count} existing aggregates", workload, beside=f"{10**5} existing aggregates"))
    for percent in (5, 50):
        points.append(Cell(f"{percent} % conflicts", replace(base, conflict_percent=percent)))
    points.append(Cell("3 attributes", replace(base, attributes=3)))
    points.append(Cell("binary", replace(base, mode="binary"), with_relay=True))
    singles = replace(base, events=events // 6, batch_messages=1)
    points.append(Cell("single messages", singles, with_relay=True))
    for layout in (Layout(2, 1), Layout(4, 1), Layout(2, 2), Layout(4, 2)):
        name = f"{layout.partitions} partitions in {layout.processes} process{'es' * (layout.processes > 1)}"
        each = replace(base, events=events * layout.processes // layout.partitions)
        points.append(Cell(name, each, layout, with_relay=layout == Layout(2, 2)))
    return points


def measure(
    matrix: Sequence[Cell], broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress
) -> list[Point]:
    """Of every cell the sequencer's figures, and the relay's where it is asked for."""
    parts = [(cell, subject) for cell in matrix for subject in ([RELAY, SEQUENCER] if cell.with_relay else [SEQUENCER])]
    turns = [Turn(subject, cell.workload, cell.layout) for cell, subject in parts]
    rounds = in_turns("matrix", turns, broker, runs=runs, directory=directory, progress=progress)
    measured = {
        (cell.name, subject.name): [turn[place] for turn in rounds] for place, (cell, subject) in enumerate(parts)
    }
    points = []
    for cell, subject in parts:
        own = measured[cell.name, subject.name]
        beside = measured.get((cell.beside, subject.name), own)
        figures = [_figures(run, other) for run, other in zip(own, beside, strict=True)]
        points.append(Point(_at(cell, subject), spreads(figures)))
    return points


def _figures(run: Run, beside: Run) -> dict[str, float]:
    figures = run.figures()
    if beside is not run:
        figures["rate_to_beside"] = round(run.events_per_s / beside.events_per_s, 3)
    return figures


def _at(cell: Cell, subject: Subject) -> Mapping[str, str | int]:
    workload, layout = cell.workload, cell.layout
    return {
        "cell": cell.name,
        "program": subject.name,
        "beside": cell.beside,
        "events": workload.events * layout.partitions,
        "event_bytes": workload.event_bytes,
        "aggregates": workload.aggregates,
        "conflict_percent": workload.conflict_percent,
        "mode": workload.mode,
        "attributes": workload.attributes,
        "batch_messages": workload.batch_messages,
        **layout._asdict(),
    }


@click.command("matrix")
@click.option("--events", type=click.IntRange(1_000), default=EVENTS, show_default=True, help="At the base point.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one to warm up.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only points with this in their name.")
@broker_options
def command(events: int, runs: int, only: tuple[str, ...], full_compiler: bool, json_file: Path | None) -> None:
    """The sequencer's events per second for other sizes, aggregates, conflicts, modes, batches and partitions.

    \b
    Example:  python -m bench matrix --only partitions --only base
    """
    matrix = [cell for cell in cells(events) if not only or any(text in cell.name for text in only)]
    if not matrix:
        raise click.UsageError(f"no such point; there are: {', '.join(cell.name for cell in cells(events))}")
    with stage(full_compiler, **BROKER_SETTINGS) as (directory, broker, progress):
        points = measure(matrix, broker, runs=runs, directory=directory, progress=progress)
    hand_over("matrix", f"throughput, {runs} runs each", asdict(Workload(events)), {}, json_file, series=points)
