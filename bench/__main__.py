"""`python -m bench NAME`: the benchmarks' command line."""

from __future__ import annotations

import json
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import throughput
from bench.workload import Workload


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure the sequencer on a real broker that the benchmark starts itself.

    \b
    Example:  python -m bench throughput --events 1000000
    """


@bench.command("throughput")
@click.option("--events", type=click.IntRange(1_000), default=600_000, show_default=True)
@click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True, help="Payload.")
@click.option("--aggregates", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--conflicts", type=click.IntRange(0, 100), default=0, show_default=True, help="Per cent.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Events per entry.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one that warms up.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too.")
def throughput_command(
    events: int, event_bytes: int, aggregates: int, conflicts: int, batch: int, runs: int, json_file: Path | None
) -> None:
    """Events per second of one sequencer process over one partition, from ready to the last commit.

    \b
    Example:  python -m bench throughput --events 1000000 --conflicts 5
    """
    workload = Workload(events, event_bytes, aggregates, conflicts, batch)
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as directory, _progress() as progress:
        measured = throughput.measure(workload, runs=runs, directory=Path(directory), progress=progress)
    figures = throughput.summary(measured)
    table = Table("figure", "median", "min", "max", title=f"throughput, {runs} runs of {events:,} events")
    for name, column in figures.items():
        table.add_row(name, *(f"{column[kind]:,}" for kind in ("median", "min", "max")))
    Console().print(table)
    report = {"benchmark": "throughput", "machine": _machine(), "workload": asdict(workload), "figures": figures}
    text = json.dumps(report, indent=2)
    click.echo(text)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(text + "\n")


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True)


def _machine() -> dict[str, str]:
    return {"python": platform.python_version(), "system": platform.platform(), "processor": platform.machine()}


if __name__ == "__main__":
    bench()
