"""Broker restart: the broker is killed under load and started again. How soon is there a commit, and is all there?"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from bench.numbered import Numbered
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
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
        for _ in progress.track(range(plan.rounds), description="restart"):
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
        await level(watch, load)
    return rounds
