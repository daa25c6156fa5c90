"""Ceiling: the sequencer beside a relay that opens no entry (bench/relay.py), in turns on the same broker."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import Progress

from bench.report import hand_over, spreads
from bench.run import RELAY, SEQUENCER, Run, run_once
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker

SUBJECTS = (RELAY, SEQUENCER)


class Pair(NamedTuple):
    """A run of the relay and the run of the sequencer that followed it."""

    relay: Run
    sequencer: Run

    def figures(self) -> dict[str, float]:
        """The headline first, then what it is made of."""
        figures = {
            "throughput_to_ceiling": round(self.sequencer.events_per_s / self.relay.events_per_s, 3),
            "cpu_to_ceiling": round(self.sequencer.cpu_us_per_event / self.relay.cpu_us_per_event, 2),
        }
        for name, run in (("sequencer", self.sequencer), ("relay", self.relay)):
            figures |= {f"{name}_{figure}": value for figure, value in run.figures().items()}
        return figures


def measure(
    workload: Workload, broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress
) -> list[Pair]:
    """Every run on topics of its own that hold the same; a pair that only warms up is not in the result."""
    task = progress.add_task("ceiling", total=(runs + 1) * len(SUBJECTS))
    pairs = []
    for number in range(runs + 1):
        pair = []
        for subject in SUBJECTS:
            topics = make_topics(broker, f"ceiling-{number}-{subject.name}")
            place = directory / f"{number}-{subject.name}"
            place.mkdir()
            pair.append(asyncio.run(run_once(subject, broker, topics, workload, place)))
            progress.advance(task)
        pairs.append(Pair(*pair))
    return pairs[1:]


@click.command("ceiling")
@click.option("--events", type=click.IntRange(1_000), default=1_500_000, show_default=True)
@click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True, help="Payload.")
@click.option("--aggregates", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--conflicts", type=click.IntRange(0, 100), default=0, show_default=True, help="Per cent.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Events per entry.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Pairs, after one to warm up.")
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
    """Events per second of the sequencer by those of a relay that opens nothing, in turns on the same broker.

    \b
    Example:  python -m bench ceiling --events 3000000
    """
    workload = Workload(events, event_bytes, aggregates, conflicts, batch)
    with stage(full_compiler) as (directory, broker, progress):
        pairs = measure(workload, broker, runs=runs, directory=directory, progress=progress)
    title = f"ceiling, {runs} pairs of runs of {events:,} events"
    hand_over("ceiling", title, asdict(workload), spreads([pair.figures() for pair in pairs]), json_file)
