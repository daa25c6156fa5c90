"""The index alone, as it grows: events per second, bytes on disk and memory with 1e5 to 3e7 aggregates.

The index is asked and written as the sequencer does it: an overlay over it, transactions of 8,000 events, whose tails
are looked up where the overlay does not hold them, and which become one batch of tails, ids and a checkpoint. Nothing
else takes part, so these figures say what the index costs, not how fast a sequencer is.

Each kind of access has a process of its own (`growth_run`), whose memory is read from /proc: it needs Linux.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from bench.growth_run import ACCESS
from bench.report import Point, hand_over, spreads
from bench.stage import json_option, progress_bar

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    sizes: tuple[int, ...]
    """Aggregates, rising."""
    access: tuple[str, ...]
    run_events: int
    runs: int
    """At every size, after one that warms up."""


def measure(plan: Plan, directory: Path, progress: Progress) -> list[Point]:
    """Figures by access and number of aggregates.

    Raises:
        RuntimeError: a process failed; its traceback is on standard error.
    """
    points = []
    for access in plan.access:
        task = progress.add_task(f"growth, {access}", total=len(plan.sizes) * plan.runs)
        by_size: dict[int, list[dict[str, float]]] = {}
        for figures in _runs(plan, access, directory / access):
            by_size.setdefault(int(figures.pop("aggregates")), []).append(figures)
            progress.advance(task)
        points += [Point({"access": access, "aggregates": size}, spreads(runs)) for size, runs in by_size.items()]
    return points


def _runs(plan: Plan, access: str, directory: Path) -> Iterator[dict[str, Any]]:
    arguments = [directory, access, plan.run_events, plan.runs, *plan.sizes]
    command = [sys.executable, "-m", "bench.growth_run", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if process.wait():
            raise RuntimeError(f"the process with {access} access ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


@click.command("growth")
@click.option("--most", type=click.IntRange(1_000), default=SIZES[-1], show_default=True, help="Aggregates.")
@click.option("--access", type=click.Choice(list(ACCESS)), multiple=True, help="Default: each, one after the other.")
@click.option("--events", type=click.IntRange(4_000), default=200_000, show_default=True, help="In one run.")
@click.option(
    "--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="At every size, after one more."
)
@json_option
def command(most: int, access: tuple[str, ...], events: int, runs: int, json_file: Path | None) -> None:
    """The index alone, from 100,000 to 30,000,000 aggregates: its speed, disk and memory. Without a broker.

    Needs 200 bytes of disk per aggregate (6 GB) in the directory for temporary files: TMPDIR names another one.
    It is filled with first events in no order, in batches larger than a sequencer's.

    \b
    Example:  python -m bench growth --most 1000000 --access zipf
    """
    sizes = tuple(size for size in SIZES if size < most)
    plan = Plan((*sizes, most), access or tuple(ACCESS), events, runs)
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as directory, progress_bar() as progress:
        series = measure(plan, Path(directory), progress)
    hand_over("growth", f"growth, {runs} runs at every size", asdict(plan), {}, json_file, series=series)
