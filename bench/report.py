"""What a benchmark hands over: figures over several runs, as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

Spread = dict[str, float]
"""Of one figure over all runs: median, min, max and p90."""


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; as precise as the values are."""
    nine_tenths = statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]
    return {
        "median": round(statistics.median(values), 3),
        "min": min(values),
        "max": max(values),
        "p90": round(nine_tenths, 3),
    }


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Every figure over all runs that have it, in the order of their first appearance."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: spread([run[name] for run in runs if name in run]) for name in names}


def hand_over(
    benchmark: str, title: str, workload: Mapping[str, Any], figures: Mapping[str, Spread], json_file: Path | None
) -> None:
    """Print the table and the JSON, and write the JSON where asked."""
    kinds = ("median", "min", "max", "p90")
    table = Table("figure", *kinds, title=title)
    for name, column in figures.items():
        table.add_row(name, *(f"{column[kind]:,}" for kind in kinds))
    Console().print(table)
    report = {"benchmark": benchmark, "machine": _machine(), "workload": dict(workload), "figures": dict(figures)}
    text = json.dumps(report, indent=2)
    click.echo(text)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(text + "\n")


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
