"""Every step of a submission's way through the sequencer by itself, without a broker: nanoseconds per event.

The steps are in `micro_steps`. pyperf runs each of them in several processes, one after the other, because what a
process cannot change (where its memory lies, its hashes' seed) moves such figures more than anything else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import pyperf
from rich.progress import Progress

from bench.micro_run import name_of
from bench.micro_steps import STEPS
from bench.report import Point, Spread, hand_over, spread
from bench.stage import json_option, progress_bar

VALUES_PER_PROCESS = 3
"""After one that warms up."""

MIN_VALUE_S = 0.1
"""A step is repeated as often as this takes; that is one value."""

NS_PER_S = 1e9


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    steps: tuple[str, ...]
    event_bytes: int
    batches: tuple[int, ...]
    """Events per entry: each step is measured with every one of them."""
    processes: int
    """Per step and batch; each gives VALUES_PER_PROCESS values."""
    value_s: float = MIN_VALUE_S


def measure(plan: Plan, progress: Progress) -> list[Point]:
    """ns per event of every step, for each number of events per entry.

    Raises:
        RuntimeError: a step failed; its traceback is on standard error.
    """
    names = [name_of(step, events) for events in plan.batches for step in plan.steps]
    task = progress.add_task("micro", total=len(names))
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as directory:
        file = Path(directory) / "pyperf.json"
        with subprocess.Popen([*_command(plan), "--output", str(file)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if any(line.startswith(f"{name}:") for name in names):
                    progress.advance(task)
        if process.returncode:
            raise RuntimeError(f"pyperf ended with {process.returncode}")
        suite = pyperf.BenchmarkSuite.load(str(file))
    return [Point({"events_per_entry": events}, _figures(plan, suite, events)) for events in plan.batches]


def _command(plan: Plan) -> list[str]:
    ours = ["--event-bytes", plan.event_bytes, "--events", *plan.batches, "--steps", *plan.steps]
    pyperfs = ["--processes", plan.processes, "--values", VALUES_PER_PROCESS, "--min-time", plan.value_s]
    return [sys.executable, "-m", "bench.micro_run", "--quiet", *map(str, ours), *map(str, pyperfs)]


def _figures(plan: Plan, suite: pyperf.BenchmarkSuite, events: int) -> dict[str, Spread]:
    figures = {}
    for step in plan.steps:
        seconds = suite.get_benchmark(name_of(step, events)).get_values()
        figures[f"{step}_ns"] = spread([round(value * NS_PER_S, 1) for value in seconds])
    return figures


@click.command("micro")
@click.argument("steps", nargs=-1, type=click.Choice(list(STEPS)))
@click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True, help="Payload.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 4_000),
    multiple=True,
    default=(500, 1),
    show_default=True,
    help="Events per entry; may be given several times.",
)
@click.option("--processes", type=click.IntRange(1, 100), default=5, show_default=True, help="Per step and batch.")
@json_option
def command(
    steps: tuple[str, ...], event_bytes: int, batches: tuple[int, ...], processes: int, json_file: Path | None
) -> None:
    """Nanoseconds per event of every step of a submission's way, without a broker; STEPS are all unless some are named.

    \b
    Example:  python -m bench micro read_structured index_apply --batch 500
    """
    plan = Plan(steps or tuple(STEPS), event_bytes, batches, processes)
    with progress_bar() as progress:
        series = measure(plan, progress)
    hand_over("micro", f"micro, ns per event of {event_bytes} bytes", asdict(plan), {}, json_file, series=series)
