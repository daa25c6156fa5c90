"""Programs measured in turns, on the same broker, again and again.

So whatever changes meanwhile, a broker whose Java warms up or a machine that does something else, changes it for all.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.progress import Progress

from bench import existing
from bench.run import ALONE, Layout, Run, Subject, run_once
from bench.setting import delete_topics, make_topics
from bench.workload import ATTRIBUTES, Mode, Workload
from sequencer.broker import EmbeddedBroker

BROKER_SETTINGS = {"gcWaitTime": "20000"}
"""Milliseconds between two collections of garbage: what a run has stored must not stay until the disk is full."""


class Turn(NamedTuple):
    """What is measured in every round: a program at its work."""

    subject: Subject
    workload: Workload
    layout: Layout = ALONE


def in_turns(
    name: str, turns: Sequence[Turn], broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress
) -> list[tuple[Run, ...]]:
    """So many rounds after one that only warms up; a round is one run of each turn, on topics of its own.

    Args:
        name: begins the names of the namespaces; used once per broker.
        directory: gets nothing that stays.
    """
    task = progress.add_task(name, total=(runs + 1) * len(turns))
    indexes = directory / f"{name}-templates"
    rounds = []
    for number in range(runs + 1):
        measured: dict[int, Run] = {}
        # Every second round backwards: to come after another one must be nobody's advantage.
        for place in range(len(turns))[:: -1 if number % 2 else 1]:
            subject, workload, layout = turns[place]
            topics = make_topics(broker, f"{name}-{number}-{place}-{subject.name}", layout.partitions)
            work = directory / topics.namespace.replace("/", "-")
            work.mkdir()
            templates = _templates(workload, layout, indexes)
            measured[place] = asyncio.run(run_once(subject, broker, topics, workload, work, layout, templates))
            shutil.rmtree(work)
            for why in delete_topics(broker, topics):
                progress.console.print(f"note: what a run has stored stays for now: {why}", highlight=False)
            progress.advance(task)
        rounds.append(tuple(measured[place] for place in range(len(turns))))
    shutil.rmtree(indexes, ignore_errors=True)  # where no turn needed any, there is nothing
    progress.remove_task(task)
    return rounds[1:]


def _templates(workload: Workload, layout: Layout, directory: Path) -> dict[int, Path]:
    """By partition, built when first needed; none where no aggregate exists before the start."""
    if not workload.existing:
        return {}
    place = directory / f"{workload.aggregates}-{layout.partitions}"
    templates = {number: place / str(number) for number in range(layout.partitions)}
    for number, template in templates.items():
        if not template.exists():
            existing.build(template, workload.aggregates_of(number, layout.partitions))
    return templates


def workload_options(events: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say what is submitted, given to the command as `workload`, and the number of `runs`.

    Args:
        events: how many it is where nothing else is said.
    """
    options = [
        click.option("--events", type=click.IntRange(1_000), default=events, show_default=True, help="Per partition."),
        click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True),
        click.option("--aggregates", type=click.IntRange(1), default=100_000, show_default=True),
        click.option("--conflicts", type=click.IntRange(0, 99), default=0, show_default=True, help="Per cent."),
        click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="1: no batches."),
        click.option("--mode", type=click.Choice(["structured", "binary"]), default="structured", show_default=True),
        click.option(
            "--attributes", type=click.IntRange(0, len(ATTRIBUTES)), default=0, show_default=True, help="Of each event."
        ),
        click.option("--existing", is_flag=True, help="The index holds every aggregate before the start."),
        click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one to warm up."),
    ]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(
            events: int,
            event_bytes: int,
            aggregates: int,
            conflicts: int,
            batch: int,
            mode: Mode,
            attributes: int,
            existing: bool,
            **others: Any,
        ) -> None:
            workload = Workload(
                events, event_bytes, aggregates, conflicts, batch, mode, existing, attributes=attributes
            )
            command(workload=workload, **others)

        decorated: Callable[..., None] = wrapped
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return with_options
