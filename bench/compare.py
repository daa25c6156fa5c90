"""Two results of the same benchmark and workload, figure by figure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report import STANDARD_OUTPUT, At, Spread, at_text, number_text, write_json
from bench.result import Result, read_result
from bench.stage import json_option
from sequencer import SequencerError

HOW_OFTEN = ("runs", "rounds", "processes")
"""Of a workload: how often it was measured, not what. Two results may differ in it."""


class NotComparable(SequencerError):
    """They were not measured in the same way."""


@dataclass(frozen=True)
class Compared:
    """One figure in both; None where one of them lacks it."""

    at: At
    figure: str
    old: float | None
    """Median."""
    new: float | None
    """Median."""
    ratio: float | None
    """new / old; None also where old is 0."""
    overlap: bool | None
    """Whether the ranges from min to max do: then a difference may be chance."""


def compare(old: Result, new: Result) -> list[Compared]:
    """Every figure that one of them has, in the old one's order.

    Raises:
        NotComparable: different benchmarks or workloads.
    """
    if old.benchmark != new.benchmark:
        raise NotComparable(f"{old.file} is of {old.benchmark}, {new.file} of {new.benchmark}")
    if differences := list(_differences(old.workload, new.workload, ignored=HOW_OFTEN)):
        raise NotComparable(f"the workloads differ: {'; '.join(differences)}")
    olds, news = ({_place(point.at): point for point in result.points} for result in (old, new))
    compared = []
    for place in dict.fromkeys([*olds, *news]):
        at = (olds.get(place) or news[place]).at
        before, after = (points[place].figures if place in points else {} for points in (olds, news))
        for name in dict.fromkeys([*before, *after]):
            compared.append(_compared(at, name, before.get(name), after.get(name)))
    return compared


def _place(at: At) -> str:
    return json.dumps(at, sort_keys=True)


def _compared(at: At, name: str, old: Spread | None, new: Spread | None) -> Compared:
    if old is None or new is None:
        return Compared(at, name, old and old["median"], new and new["median"], None, None)
    ratio = round(new["median"] / old["median"], 4) if old["median"] else None
    overlap = old["min"] <= new["max"] and new["min"] <= old["max"]
    return Compared(at, name, old["median"], new["median"], ratio, overlap)


def differences(old: Result, new: Result) -> list[str]:
    """What was not the same around them: the machine, the versions, how often it was measured."""
    pairs = ((old.machine, new.machine), (old.versions, new.versions), (old.workload, new.workload))
    return [line for before, after in pairs for line in _differences(before, after)]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> Iterator[str]:
    """ "events 1000 and 2000" """
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if name in ignored or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            for line in _differences(before, after, ignored):
                yield f"{name}.{line}"
        else:
            yield f"{name} {_shown(before)} and {_shown(after)}"


def _shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def show(old: Result, new: Result, compared: list[Compared], console: Console) -> None:
    """A table for each point, and what was not the same around them."""
    console.print(f"{old.benchmark}, medians", style="bold", highlight=False)
    for at, lines in itertools.groupby(compared, key=lambda line: line.at):
        if at:
            console.print(f"\n{at_text(at)}", style="italic", highlight=False)
        console.print(_table(lines))
    for name, result in (("old", old), ("new", new)):
        console.print(f"{name}: {result.commit}, {result.when}, {result.file}", soft_wrap=True, highlight=False)
    for difference in differences(old, new):
        console.print(f"not the same: {difference}", soft_wrap=True, highlight=False)


def _table(lines: Iterable[Compared]) -> Table:
    table = Table("figure", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("old", "new", "new / old"):
        table.add_column(name, justify="right")
    table.add_column("ranges")
    for line in lines:
        ranges = "" if line.overlap is None else "overlap" if line.overlap else "apart"
        table.add_row(line.figure, *map(_number, (line.old, line.new, line.ratio)), ranges)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


@click.command("compare")
@click.argument("old", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def command(old: Path, new: Path, json_file: Path | None) -> None:
    """What has changed between two results, OLD and NEW, of the same benchmark and workload.

    "apart" means that the ranges of all runs do not touch. Where they overlap, the difference may be chance.

    \b
    Example:  python -m bench compare bench/results/throughput.json new.json
    """
    before, after = read_result(old), read_result(new)
    compared = compare(before, after)
    show(before, after, compared, Console(stderr=json_file == STANDARD_OUTPUT))
    if json_file:
        sides = {
            name: {"file": str(result.file), "when": result.when, "commit": result.commit}
            for name, result in (("old", before), ("new", after))
        }
        report = {"benchmark": before.benchmark, **sides, "not_the_same": differences(before, after)}
        write_json(report | {"figures": [asdict(line) for line in compared]}, json_file)
