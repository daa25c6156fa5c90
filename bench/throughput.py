"""Throughput: one partition full of events, one sequencer process, timed from ready to the last commit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.progress import Progress

from bench.report import Spread, hand_over, spreads
from bench.sequencer_process import SEQUENCING, SequencerProcess, Usage
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.workload import Workload, load
from sequencer.broker import EmbeddedBroker
from sequencer.entries import read_events
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import MessageId

LOOK_EVERY_S = 0.02
STUCK_AFTER_S = 120.0


class Run(NamedTuple):
    """One run's figures."""

    events: int
    seconds: float
    usage: Usage

    def figures(self) -> dict[str, Any]:
        return {
            "events_per_s": round(self.events / self.seconds),
            "transactions_per_s": round(self.usage.transactions / self.seconds),
            "seconds": round(self.seconds, 3),
            "cpu_s": round(self.usage.cpu_s, 2),
            "cpu_us_per_event": round(self.usage.cpu_s / self.events * 1e6, 2),
            "peak_memory_mib": round(self.usage.peak_memory_mib, 1),
        }


def measure(workload: Workload, broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress) -> list[Run]:
    """Every run on topics of its own, after one that warms the broker's Java up."""
    task = progress.add_task("throughput", total=runs + 1)
    results = []
    for number in range(runs + 1):
        topics = make_topics(broker, f"throughput-{number}")
        (directory / str(number)).mkdir()
        results.append(asyncio.run(run_once(broker, topics, workload, directory / str(number))))
        progress.advance(task)
    return results[1:]


async def run_once(broker: EmbeddedBroker, topics: Topics, workload: Workload, directory: Path) -> Run:
    """One run on topics that are empty; `directory` is for the index and the log."""
    async with PulsarClient(broker.service_url) as client:
        producer = await client.producer(topics.submitted_partition(0))
        await load(producer, workload)
        await producer.close()
        sequencer = SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")
        sequencer.await_line(SEQUENCING)
        began_s = time.perf_counter()
        await _committed(client, topics.events_partition(0), workload.events - workload.conflicts)
        seconds = time.perf_counter() - began_s
        usage = sequencer.stop()
    return Run(workload.events, seconds, usage)


async def _committed(client: PulsarClient, topic: str, events: int) -> None:
    """Return when the last of so many events is readable. Looks from outside, at a few requests per second."""
    reader = await client.reader(topic)
    stuck_at_s = time.monotonic() + STUCK_AFTER_S
    seen = None
    while True:
        last = await reader.last_message_id()
        if last != seen:
            seen, stuck_at_s = last, time.monotonic() + STUCK_AFTER_S
            if await _sequence_at(client, topic, last) == events - 1:
                return
        if time.monotonic() > stuck_at_s:
            raise RuntimeError(f"no commit for {STUCK_AFTER_S:.0f} s, the last one is {last}")
        await asyncio.sleep(LOOK_EVERY_S)


async def _sequence_at(client: PulsarClient, topic: str, position: MessageId) -> int:
    reader = await client.reader(topic, start=MessageId(position.ledger, position.entry), inclusive=True)
    try:
        (entry,) = await reader.take(max_messages=1, max_bytes=1)
        return list(read_events(entry))[-1].sequence
    finally:
        await reader.close()


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
