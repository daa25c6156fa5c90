"""Recovery: a sequencer starts over a partition full of events. How long until it looks at its input?

Three ways: with an empty index and an `events` that has not been compacted, so that everything is read; with the index
that it has built then (warm); with an empty index from the compacted view. The two empty ones fill the id window too.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from bench.fill import Filling, ago, fill
from bench.report import hand_over, spreads
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
from bench.stage import broker_options, stage
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics

READY_WITHIN_S = 900.0
COMPACTED_WITHIN_S = 900.0
ASK_AGAIN_S = 0.2
Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    events: int
    aggregates: int
    window_percent: int
    """Events that are younger than the id window."""
    runs: int


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> list[Figures]:
    """The figures of every run, in seconds since the process was started."""
    task = progress.add_task("recovery", total=3 * plan.runs + 2)
    runs: list[Figures] = [{} for _ in range(plan.runs)]
    filling = Filling(plan.events, plan.aggregates, plan.window_percent)
    with ago(filling.span_ms) as clock:
        topics = make_topics(broker, "recovery")
        asyncio.run(fill(broker.service_url, topics.events_partition(0), filling, clock))
    progress.advance(task)
    for number, run in enumerate(runs):
        for kind in ("everything", "warm"):
            run |= _recover(broker, topics, directory / f"full-{number}", kind)
            progress.advance(task)
    with Admin(broker.admin_url) as admin:
        runs[0]["compaction_s"] = compact(admin, topics.events_partition(0))
    progress.advance(task)
    for number, run in enumerate(runs):
        run |= _recover(broker, topics, directory / f"compacted-{number}", "compacted")
        progress.advance(task)
    return runs


def _recover(broker: EmbeddedBroker, topics: Topics, index_dir: Path, kind: str) -> Figures:
    """One start and one clean stop."""
    began_s = time.time()
    process = SequencerProcess(broker, topics.namespace, index_dir, index_dir.with_suffix(f".{kind}.log"))
    try:
        ready = process.await_line(SEQUENCING, within_s=READY_WITHIN_S)
        usage = process.stop()
    finally:
        process.end()
    return {
        f"{kind}_s": round(ready.at_s - began_s, 3),
        f"{kind}_ids": _ids_read(process),
        f"{kind}_cpu_s": round(usage.cpu_s, 2),
        f"{kind}_peak_memory_mib": round(usage.peak_memory_mib, 1),
    }


def _ids_read(process: SequencerProcess) -> int:
    """The events that it took for those of the id window; 0 where it had an index."""
    found = (re.search(r"index rebuilt from \d+ events and (\d+) ids", line.text) for line in process.lines())
    return next((int(match[1]) for match in found if match), 0)


def compact(admin: Admin, topic: str) -> float:
    """Have a topic compacted and return how many seconds that took.

    Raises:
        RuntimeError: the broker failed to, or took more than COMPACTED_WITHIN_S.
    """
    path = f"v2/persistent/{topic.removeprefix('persistent://')}/compaction"
    began_s = time.monotonic()
    admin.put(path)
    while (answer := _status(admin, path)) == "RUNNING":
        if time.monotonic() - began_s > COMPACTED_WITHIN_S:
            raise RuntimeError(f"{topic} was not compacted within {COMPACTED_WITHIN_S:.0f} s")
        time.sleep(ASK_AGAIN_S)
    if answer != "SUCCESS":
        raise RuntimeError(f"{topic} was not compacted: {answer}")
    return round(time.monotonic() - began_s, 3)


def _status(admin: Admin, path: str) -> Any:
    return admin.get(path)["status"]


@click.command("recovery")
@click.option("--events", type=click.IntRange(1_000), default=5_000_000, show_default=True)
@click.option("--aggregates", type=click.IntRange(1), default=500_000, show_default=True)
@click.option("--window", type=click.IntRange(1, 100), default=10, show_default=True, help="Events in it, per cent.")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@broker_options
def command(events: int, aggregates: int, window: int, runs: int, full_compiler: bool, json_file: Path | None) -> None:
    """From the start of a sequencer to its first look at the input, with an empty index and with a warm one.

    \b
    Example:  python -m bench recovery --events 500000 --aggregates 50000
    """
    plan = Plan(events, aggregates, window, runs)
    with stage(full_compiler) as (directory, broker, progress):
        measured = measure(plan, broker, directory=directory, progress=progress)
    title = f"recovery, {runs} runs over {events:,} events of {aggregates:,} aggregates"
    hand_over("recovery", title, asdict(plan), spreads(measured), json_file)
