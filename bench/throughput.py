"""Throughput: partitions full of events, one sequencer process or more, timed from ready to the last commit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from bench.report import Spread, hand_over, spreads
from bench.run import ALONE, SEQUENCER, Layout, Run
from bench.stage import broker_options, stage
from bench.turns import BROKER_SETTINGS, Turn, in_turns, workload_options
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker


def measure(
    workload: Workload,
    broker: EmbeddedBroker,
    *,
    runs: int,
    directory: Path,
    progress: Progress,
    layout: Layout = ALONE,
) -> list[Run]:
    """Every run on topics of its own, after one that warms the broker's Java up."""
    turns = [Turn(SEQUENCER, workload, layout)]
    rounds = in_turns("throughput", turns, broker, runs=runs, directory=directory, progress=progress)
    return [run for (run,) in rounds]


def summary(runs: list[Run]) -> dict[str, Spread]:
    """Every figure over all runs."""
    return spreads([run.figures() for run in runs])


@click.command("throughput")
@workload_options(events=1_000_000)
@click.option("--partitions", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="They share the partitions."
)
@broker_options
def command(
    workload: Workload, partitions: int, processes: int, runs: int, full_compiler: bool, json_file: Path | None
) -> None:
    """Events per second of a sequencer, from ready to the last commit.

    \b
    Example:  python -m bench throughput --events 3000000 --conflicts 5
    """
    if processes > partitions:
        raise click.UsageError("a process needs a partition")
    layout = Layout(partitions, processes)
    with stage(full_compiler, **BROKER_SETTINGS) as (directory, broker, progress):
        measured = measure(workload, broker, runs=runs, directory=directory, progress=progress, layout=layout)
    title = f"throughput, {runs} runs of {workload.events * partitions:,} events"
    hand_over("throughput", title, asdict(workload) | layout._asdict(), summary(measured), json_file)
