"""Broker restart: the broker is killed under load and started again. How soon is there a commit, and is all there?"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.progress import Progress

from bench.numbered import BATCHES_PER_S, Numbered, at_rate
from bench.report import hand_over, spreads
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.watch import STUCK_AFTER_S, level, watched_load
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics

UNDISTURBED_S = (0.3, 0.8)
"""How long everything goes on before the broker is killed, at random."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rounds: int
    rate: int
    """Events per second that are submitted all the time, also while there is no broker: then they pile up."""
    numbered: Numbered


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> list[dict[str, float]]:
    """The figures of every round, in seconds. The broker is running before and after.

    Raises:
        RuntimeError: something was lost or doubled, or nothing happened for STUCK_AFTER_S.
    """
    topics = make_topics(broker, "restart")
    sequencer = SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")
    try:
        sequencer.await_line(SEQUENCING)
        rounds = asyncio.run(_measure(plan, broker, topics, progress))
        sequencer.stop()
        return rounds
    finally:
        sequencer.end()


async def _measure(plan: Plan, broker: EmbeddedBroker, topics: Topics, progress: Progress) -> list[dict[str, float]]:
    rounds = []
    async with watched_load(broker, topics, plan.numbered, plan.rate) as (watch, load):
        task = progress.add_task("restart", total=plan.rounds)
        for _ in range(plan.rounds):
            await level(watch, load)
            await asyncio.sleep(random.uniform(*UNDISTURBED_S))
            successor = watch.successor()
            killed_s = time.perf_counter()
            broker.kill()
            await asyncio.to_thread(broker.start)
            healthy_s = time.perf_counter()
            async with asyncio.timeout(STUCK_AFTER_S):
                first = await successor
            rounds.append(
                {
                    "healthy_to_first_commit_s": round(first.at_s - healthy_s, 3),
                    "kill_to_healthy_s": round(healthy_s - killed_s, 3),
                    "kill_to_first_commit_s": round(first.at_s - killed_s, 3),
                }
            )
            progress.advance(task)
        await level(watch, load)
    return rounds


@click.command("restart")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--rate", type=click.IntRange(BATCHES_PER_S, 80_000), default=20_000, show_default=True, help="Events/s.")
@broker_options
def command(rounds: int, rate: int, full_compiler: bool, json_file: Path | None) -> None:
    """The broker is killed under load and started again: from there to the first commit, and nothing is lost.

    \b
    Example:  python -m bench restart --rounds 3
    """
    plan = Plan(rounds, rate, at_rate(rate))
    with stage(full_compiler) as (directory, broker, progress):
        measured = measure(plan, broker, directory=directory, progress=progress)
    title = f"broker killed and restarted, {rounds} rounds at {rate:,} events/s"
    hand_over("restart", title, asdict(plan), spreads(measured), json_file)
