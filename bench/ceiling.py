"""Ceiling: the sequencer beside a relay that opens no entry (bench/relay.py), in turns on the same broker.

The relay is what any sequencer on this broker and this client has to do at least, so its rate is the ceiling.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from bench.report import hand_over, spreads
from bench.run import RELAY, SEQUENCER, Run
from bench.stage import broker_options, stage
from bench.turns import BROKER_SETTINGS, Turn, in_turns, workload_options
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker


def measure(
    workload: Workload, broker: EmbeddedBroker, *, runs: int, directory: Path, progress: Progress
) -> list[dict[str, float]]:
    """The figures of every round: of the relay, of the sequencer, and of the one by the other."""
    turns = [Turn(RELAY, workload), Turn(SEQUENCER, workload)]
    rounds = in_turns("ceiling", turns, broker, runs=runs, directory=directory, progress=progress)
    return [_figures(*turn) for turn in rounds]


def _figures(relay: Run, sequencer: Run) -> dict[str, float]:
    figures = {"throughput_to_ceiling": round(sequencer.events_per_s / relay.events_per_s, 3)}
    if relay.cpu_s:  # counted in hundredths of a second, of which a tiny run has none
        figures["cpu_to_ceiling"] = round(sequencer.cpu_us_per_event / relay.cpu_us_per_event, 2)
    for name, run in (("sequencer", sequencer), ("relay", relay)):
        figures |= {f"{name}_{figure}": value for figure, value in run.figures().items()}
    return figures


@click.command("ceiling")
@workload_options(events=1_000_000)
@broker_options
def command(workload: Workload, runs: int, full_compiler: bool, json_file: Path | None) -> None:
    """The sequencer's events per second by those of a relay that opens nothing, in turns on the same broker.

    \b
    Example:  python -m bench ceiling --events 3000000 --mode binary
    """
    with stage(full_compiler, **BROKER_SETTINGS) as (directory, broker, progress):
        rounds = measure(workload, broker, runs=runs, directory=directory, progress=progress)
    title = f"ceiling, {runs} rounds of {workload.events:,} events each"
    hand_over("ceiling", title, asdict(workload), spreads(rounds), json_file)
