"""Takeover: a loaded owner is killed or frozen, and a standby commits in its place. How long was nothing committed?"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import click
from rich.progress import Progress

from bench.numbered import BATCHES_PER_S, Numbered, at_rate
from bench.report import hand_over, spreads
from bench.sequencer_process import SEQUENCING, STANDING_BY, LogLine, SequencerProcess
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.watch import STUCK_AFTER_S, Sighting, Watch, level, watched_load
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics

UNDISTURBED_S = (1.0, 1.5)
"""How long it then goes on before it is struck: at random, so that every moment of its work is hit, and long enough for
a new standby to catch up."""

STEPS = {
    "granted_ms": r": granted, epoch",
    "fenced_ms": r": predecessor fenced",
    "ended_ms": r"transactions of epoch \d+ ended",
    "index_level_ms": r": index level at",
    "sequencing_ms": SEQUENCING,
}
"""What a standby logs on its way to its first commit."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rounds: int
    rate: int
    """Events per second that are submitted all the time."""
    freeze: bool
    """SIGSTOP instead of kill -9."""
    numbered: Numbered


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> list[dict[str, float]]:
    """The figures of every round, in milliseconds since the signal was sent.

    Raises:
        RuntimeError: something was lost, doubled or rejected, or nothing happened for STUCK_AFTER_S.
    """
    topics = make_topics(broker, "takeover")
    with Pair(broker, topics, directory) as pair:
        return asyncio.run(_measure(plan, broker, topics, pair, progress))


class Pair:
    """An owner and its standby, each with an index of its own, as on two machines."""

    def __init__(self, broker: EmbeddedBroker, topics: Topics, directory: Path) -> None:
        self._broker, self._topics, self._directory = broker, topics, directory
        self._numbers = itertools.count()
        self._all: list[SequencerProcess] = []
        self.owner = self.start(directory / "index-a")
        self.owner.await_line(SEQUENCING)
        self.standby = self.start(directory / "index-b")
        self.standby.await_line(STANDING_BY)

    def start(self, index_dir: Path) -> SequencerProcess:
        """One more process. Returns at once."""
        log_file = self._directory / f"sequencer-{next(self._numbers)}.log"
        process = SequencerProcess(self._broker, self._topics.namespace, index_dir, log_file)
        self._all.append(process)
        return process

    def replace(self) -> None:
        """The standby has become the owner, and the one that was killed is started again to stand by."""
        self.owner.wait()
        self.owner, self.standby = self.standby, self.start(self.owner.index_dir)
        self.standby.await_line(STANDING_BY)

    def exchange(self) -> None:
        """The standby has become the owner, and the one that was frozen wakes up, and finds out, and stands by."""
        since_s = time.time()
        self.owner.resume()
        self.owner.await_line(STANDING_BY, since_s=since_s)
        self.owner, self.standby = self.standby, self.owner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.end()


async def _measure(
    plan: Plan, broker: EmbeddedBroker, topics: Topics, pair: Pair, progress: Progress
) -> list[dict[str, float]]:
    rounds = []
    async with watched_load(broker, topics, plan.numbered, plan.rate) as (watch, load):
        task = progress.add_task("takeover", total=plan.rounds)
        for _ in range(plan.rounds):
            await level(watch, load)
            rounds.append(await _round(plan, watch, pair))
            await asyncio.to_thread(pair.exchange if plan.freeze else pair.replace)
            progress.advance(task)
    return rounds


async def _round(plan: Plan, watch: Watch, pair: Pair) -> dict[str, float]:
    seen, since_s = watch.events, time.perf_counter()
    await asyncio.sleep(random.uniform(*UNDISTURBED_S))
    rate = (watch.events - seen) / (time.perf_counter() - since_s)
    successor = watch.successor()
    strike: Callable[[], None] = pair.owner.suspend if plan.freeze else pair.owner.kill
    struck = Sighting(time.perf_counter(), time.time())
    strike()
    async with asyncio.timeout(STUCK_AFTER_S):
        first = await successor
    lines = [line for line in pair.standby.lines() if line.at_s >= struck.wall_s - 0.001]
    return {
        "first_commit_ms": round((first.at_s - struck.at_s) * 1000, 1),
        **{name: round((line.at_s - struck.wall_s) * 1000, 1) for name, line in _steps(lines)},
        "standby_behind_events": _behind(lines),
        "events_per_s_before": round(rate),
    }


def _behind(lines: list[LogLine]) -> int:
    """The events that the standby's index had yet to learn when it became the owner."""
    (behind,) = [int(match[1]) for line in lines if (match := re.search(r": index level .* (\d+) events", line.text))]
    return behind


def _steps(lines: list[LogLine]) -> Iterator[tuple[str, LogLine]]:
    """Raises RuntimeError where one is missing: then it was no takeover."""
    for name, pattern in STEPS.items():
        found = next((line for line in lines if re.search(pattern, line.text)), None)
        if found is None:
            raise RuntimeError(f"the standby did not log {pattern!r}, but: {lines}")
        yield name, found


@click.command("takeover")
@click.option("--rounds", type=click.IntRange(1), default=50, show_default=True)
@click.option("--rate", type=click.IntRange(BATCHES_PER_S, 80_000), default=20_000, show_default=True, help="Events/s.")
@click.option("--freeze", is_flag=True, help="SIGSTOP instead of kill -9.")
@click.option("--keep-alive", type=click.IntRange(1), default=30, show_default=True, help="Of the broker, seconds.")
@broker_options
def command(rounds: int, rate: int, freeze: bool, keep_alive: int, full_compiler: bool, json_file: Path | None) -> None:
    """From the death of a loaded owner to the first commit of the standby that was waiting for it.

    \b
    Example:  python -m bench takeover --rounds 5 --freeze --keep-alive 3
    """
    plan = Plan(rounds, rate, freeze, at_rate(rate))
    with stage(full_compiler, keepAliveIntervalSeconds=str(keep_alive)) as (directory, broker, progress):
        measured = measure(plan, broker, directory=directory, progress=progress)
    title = f"takeover after {'SIGSTOP' if freeze else 'kill -9'}, {rounds} rounds at {rate:,} events/s"
    hand_over("takeover", title, asdict(plan) | {"keep_alive_s": keep_alive}, spreads(measured), json_file)
