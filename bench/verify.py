"""The core of `sequencer verify` over generated records: how much time, memory and disk it takes, without a broker."""

from __future__ import annotations

import os
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from bench.report import hand_over, spreads
from bench.stage import json_option, progress_bar
from bench.usage import peak_memory_mib
from sequencer.pulsar.frames import MessageId
from sequencer.verify.spill import spilled_tables
from sequencer.verify.verifier import Accepted, Acknowledged, Submitted, Verifier

ENTRY_EVENTS = 500
INPUT_LEDGER, EVENTS_LEDGER = 10, 20
STEP_EVENTS = 100_000
"""Events between one look at the disk and the next."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Events spread evenly over partitions, and at random over aggregates."""

    events: int
    aggregates: int
    partitions: int


def measure(plan: Plan, advance: Callable[[int], None]) -> dict[str, float]:
    """Feed and judge; every promise must be found kept.

    Args:
        advance: told of events done, each of them three times: submitted, accepted, judged.
    """
    began_s, cpu_s = time.monotonic(), time.process_time()
    disk_bytes = 0

    def step(count: int) -> None:
        nonlocal disk_bytes
        advance(count)
        disk_bytes = max(disk_bytes, _spilled_bytes())

    with spilled_tables() as tables:
        verifier = Verifier(tables=tables)
        per_partition = plan.events // plan.partitions
        for number in range(plan.partitions):
            for at, key in _keys(plan, number, step):
                verifier.submitted(number, Submitted(_id(INPUT_LEDGER, number, at), key, _event_id(number, at), None))
        for number in range(plan.partitions):
            for accepted in _accepted(plan, number, step):
                verifier.accepted(number, accepted)
            verifier.acknowledged(number, Acknowledged(_id(INPUT_LEDGER, number, per_partition)))
        report = verifier.report({}, step)
    assert report.ok, str(report)
    assert report.pending == 0
    return {
        "wall_s": round(time.monotonic() - began_s, 1),
        "cpu_s": round(time.process_time() - cpu_s, 1),
        "peak_memory_mib": round(peak_memory_mib(os.getpid())),
        "peak_disk_mib": round(disk_bytes / (1024 * 1024)),
    }


def _keys(plan: Plan, number: int, step: Callable[[int], None]) -> Iterator[tuple[int, str]]:
    """The aggregate of each event of a partition; the same for each call."""
    chance = random.Random(number)
    own = plan.aggregates // plan.partitions
    for at in range(plan.events // plan.partitions):
        if at and at % STEP_EVENTS == 0:
            step(STEP_EVENTS)
        yield at, f"account-{number}-{int(chance.random() * own):07d}"


def _accepted(plan: Plan, number: int, step: Callable[[int], None]) -> Iterator[Accepted]:
    versions = array("q", [-1]) * (plan.aggregates // plan.partitions)
    for at, key in _keys(plan, number, step):
        aggregate = int(key.rpartition("-")[2])
        versions[aggregate] += 1
        submission = str(_id(INPUT_LEDGER, number, at))
        position = _id(EVENTS_LEDGER, number, at)
        yield Accepted(position, key, _event_id(number, at), versions[aggregate], at, submission, at // 20)


def _id(ledger: int, number: int, at: int) -> MessageId:
    return MessageId(ledger, at // ENTRY_EVENTS, number, at % ENTRY_EVENTS)


def _event_id(number: int, at: int) -> bytes:
    """As random as a real one."""
    mixed = (at * 0x9E3779B97F4A7C15F39CC0605CEDC835 + number) % 2**128
    return mixed.to_bytes(16, "big")


def _spilled_bytes() -> int:
    total = 0
    for path in Path(tempfile.gettempdir()).glob("sequencer-verify-*/tables/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@click.command("verify")
@click.option("--events", type=click.IntRange(1_000), default=10_000_000, show_default=True)
@click.option("--aggregates", type=click.IntRange(4), default=1_000_000, show_default=True)
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True)
@json_option
def command(events: int, aggregates: int, partitions: int, json_file: Path | None) -> None:
    """Time, memory and disk of what `sequencer verify` does with what it has read; needs no broker.

    \b
    Example:  python -m bench verify --events 1000000 --aggregates 100000
    """
    plan = Plan(events, aggregates, partitions)
    with progress_bar() as progress:
        task = progress.add_task("verify", total=3 * events)
        figures = measure(plan, lambda count: progress.advance(task, count))
    title = f"verify, {events:,} events of {aggregates:,} aggregates"
    hand_over("verify", title, asdict(plan), spreads([figures]), json_file)
