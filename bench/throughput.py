"""Throughput: one partition full of events, one sequencer process, timed from ready to the last commit."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from bench.report import Spread, hand_over, spreads
from bench.run import SEQUENCER, Run, run_once
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker


def measure(workload: Workload, broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress) -> list[Run]:
    """Every run on topics of its own, after one that warms the broker's Java up."""
    task = progress.add_task("throughput", total=runs + 1)
    results = []
    for number in range(runs + 1):
        topics = make_topics(broker, f"throughput-{number}")
        (directory / str(number)).mkdir()
        results.append(asyncio.run(run_once(SEQUENCER, broker, topics, workload, directory / str(number))))
        progress.advance(task)
    return results[1:]


def summary(runs: list[Run]) -> dict[str, Spread]:
    """Every figure over all runs."""
    return spreads([run.figures() for run in runs])


@click.command("throughput")
@click.option("--events", type=click.IntRange(1_000), default=600_000, show_default=True)
@click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True, help="Payload.")
@click.option("--aggregates", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--conflicts", type=click.IntRange(0, 100), default=0, show_default=True, help="Per cent.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Events per entry.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one that warms up.")
@broker_options
def command(
    events: int,
    event_bytes: int,
    aggregates: int,
    conflicts: int,
    batch: int,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """Events per second of one sequencer process over one partition, from ready to the last commit.

    \b
    Example:  python -m bench throughput --events 1000000 --conflicts 5
    """
    workload = Workload(events, event_bytes, aggregates, conflicts, batch)
    with stage(full_compiler) as (directory, broker, progress):
        measured = measure(workload, broker, runs=runs, directory=directory, progress=progress)
    title = f"throughput, {runs} runs of {events:,} events"
    hand_over("throughput", title, asdict(workload), summary(measured), json_file)
