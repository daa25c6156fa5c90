"""Results as Markdown, for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.report import at_text, number_text
from bench.result import RESULTS, Result, read_result


def markdown(results: Sequence[Result]) -> str:
    """One table for all, below a line on each commit and machine that they come from."""
    lines = [*dict.fromkeys(map(_origin, results)), "", "| benchmark | figure | median | min | max | runs |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for result in results:
        lines.extend(_rows(result))
    return "\n".join(lines)


def _origin(result: Result) -> str:
    machine = result.machine
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"Commit {result.commit}, {result.when[:10]}: {where}; {versions}."


def _rows(result: Result) -> Iterator[str]:
    first = f"{result.benchmark}: {_plan(result.workload)}"
    for point in result.points:
        place = at_text(point.at)
        for name, found in point.figures.items():
            numbers = map(number_text, (found["median"], found["min"], found["max"], found["runs"]))
            yield f"| {first} | {' '.join(filter(None, (place, name)))} | {' | '.join(numbers)} |"
            first = ""


def _plan(workload: Mapping[str, Any]) -> str:
    """Without what stands for nothing: empty texts and lists."""
    return ", ".join(f"{name} {value}" for name, value in workload.items() if value not in ("", [], None))


@click.command("table")
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Print results as a table in Markdown; FILES are all in bench/results unless some are named.

    \b
    Example:  python -m bench table bench/results/throughput.json
    """
    click.echo(markdown([read_result(file) for file in files or sorted(RESULTS.glob("*.json"))]))
