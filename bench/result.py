"""Result files: what a benchmark handed over as JSON, read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Point, Spread
from sequencer import SequencerError

RESULTS = Path(__file__).parent / "results"
"""Where `make bench` writes them, each by its benchmark's name."""

SPREAD = ("median", "min", "max", "runs", "values")


class ResultInvalid(SequencerError):
    """It is no result file."""


@dataclass(frozen=True)
class Result:
    """A result file; bench/report.py tells what is in it."""

    file: Path
    benchmark: str
    when: str
    commit: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    workload: Mapping[str, Any]
    figures: Mapping[str, Spread]
    series: tuple[Point, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The figures of the whole, at nowhere in particular, and then those of the series."""
        return (Point({}, self.figures), *self.series) if self.figures else self.series


def read_result(file: Path) -> Result:
    """Raises ResultInvalid where the file cannot be read or holds something else."""
    try:
        found = json.loads(file.read_text())
        result = Result(
            file=file,
            benchmark=found["benchmark"],
            when=found["when"],
            commit=found["commit"],
            versions=found["versions"],
            machine=found["machine"],
            workload=found["workload"],
            figures=found["figures"],
            series=tuple(Point(point["at"], point["figures"]) for point in found.get("series", ())),
        )
        for point in result.points:
            for name, spread in point.figures.items():
                if missing := [key for key in SPREAD if key not in spread]:
                    raise ResultInvalid(f"{file}: {name} lacks {missing[0]}")
    except OSError as error:
        raise ResultInvalid(f"{file}: {error.strerror}") from error
    except KeyError as error:
        raise ResultInvalid(f"{file} is no result of a benchmark: it lacks {error.args[0]!r}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultInvalid(f"{file} is no result of a benchmark") from error
    return result


def read_results(directory: Path) -> dict[str, Result]:
    """All of a directory's, by their benchmark's name; of one that has several, that in the file with its name."""
    results: dict[str, Result] = {}
    for file in sorted(directory.glob("*.json")):
        result = read_result(file)
        if result.benchmark not in results or file.stem == result.benchmark:
            results[result.benchmark] = result
    return results
