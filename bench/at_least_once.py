"""At least once: the sequencer beside the same loop without transactions (bench/without_transactions.py), in turns.

What the one is slower than the other is the price of exactly-once at full load.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from bench.report import hand_over, spreads
from bench.run import AT_LEAST_ONCE, SEQUENCER, Run
from bench.stage import broker_options, stage
from bench.turns import BROKER_SETTINGS, Turn, in_turns, workload_options
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker


def measure(
    workload: Workload, broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress
) -> list[dict[str, float]]:
    """The figures of every round: of both, and the price in per cent of the rate without transactions."""
    turns = [Turn(AT_LEAST_ONCE, workload), Turn(SEQUENCER, workload)]
    rounds = in_turns("at-least-once", turns, broker, runs=runs, directory=directory, progress=progress)
    return [_figures(*turn) for turn in rounds]


def _figures(at_least_once: Run, sequencer: Run) -> dict[str, float]:
    figures = {"price_percent": round(100 - 100 * sequencer.events_per_s / at_least_once.events_per_s, 1)}
    for name, run in (("exactly_once", sequencer), ("at_least_once", at_least_once)):
        figures |= {f"{name}_{figure}": value for figure, value in run.figures().items()}
    return figures


@click.command("at-least-once")
@workload_options(events=1_000_000)
@broker_options
def command(workload: Workload, runs: int, full_compiler: bool, json_file: Path | None) -> None:
    """What exactly-once costs: the sequencer beside the same loop without transactions.

    \b
    Example:  python -m bench at-least-once --events 3000000
    """
    with stage(full_compiler, **BROKER_SETTINGS) as (directory, broker, progress):
        rounds = measure(workload, broker, runs=runs, directory=directory, progress=progress)
    title = f"at-least-once, {runs} rounds of {workload.events:,} events each"
    hand_over("at-least-once", title, asdict(workload), spreads(rounds), json_file)
