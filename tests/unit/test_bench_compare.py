"""Results, read again: compared figure by figure, and as a table in Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from bench.compare import NotComparable, compare, differences
from bench.report import Point, hand_over, spreads
from bench.result import Result, ResultInvalid, read_result, read_results
from bench.table import markdown

WORKLOAD = {"events": 1000, "sizes": [100, 200], "numbered": {"aggregates": 10}, "reply_to": "", "runs": 2}


def result(
    file: Path, rates: tuple[float, ...], *, benchmark: str = "latency", series: tuple[Point, ...] = (), **more: Any
) -> Result:
    figures = spreads([{"events_per_s": rate, "errors": 0} for rate in rates])
    hand_over(benchmark, "title", WORKLOAD | more, figures, file, series=series)
    return read_result(file)


def test_each_figure_with_its_ratio_and_whether_the_ranges_overlap(tmp_path: Path) -> None:
    old, near, far = (
        result(tmp_path / f"{name}.json", rates)
        for name, rates in (("old", (100, 110, 120)), ("near", (120, 132, 150)), ("far", (121, 132, 150)))
    )
    rate, errors = compare(old, near)
    assert (rate.figure, rate.old, rate.new, rate.ratio, rate.overlap) == ("events_per_s", 110, 132, 1.2, True)
    assert (errors.figure, errors.ratio, errors.overlap) == ("errors", None, True)
    assert compare(old, far)[0].overlap is False
    assert compare(far, old)[0].overlap is False


def test_series_are_compared_point_by_point(tmp_path: Path) -> None:
    def points(first: float, second: float) -> tuple[Point, ...]:
        return Point({"rate": 10}, spreads([{"p99_ms": first}])), Point({"rate": 20}, spreads([{"p99_ms": second}]))

    old = result(tmp_path / "old.json", (1,), series=points(2.0, 4.0))
    new = result(tmp_path / "new.json", (1,), series=tuple(reversed(points(3.0, 5.0))))
    found = [(dict(line.at), line.ratio) for line in compare(old, new) if line.figure == "p99_ms"]
    assert found == [({"rate": 10}, 1.5), ({"rate": 20}, 1.25)]


def test_what_only_one_of_them_has(tmp_path: Path) -> None:
    old = result(tmp_path / "old.json", (1,), series=(Point({"rate": 10}, spreads([{"p99_ms": 2.0}])),))
    new = result(tmp_path / "new.json", (1,))
    last = compare(old, new)[-1]
    assert (last.figure, last.old, last.new, last.ratio, last.overlap) == ("p99_ms", 2.0, None, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": "append"}, "old.json is of latency, "),
        ({"events": 2000}, "the workloads differ: events 1000 and 2000"),
        ({"numbered": {"aggregates": 20}}, "the workloads differ: numbered.aggregates 10 and 20"),
        ({"sizes": [100]}, "the workloads differ: sizes [100, 200] and [100]"),
        ({"mode": "binary"}, "the workloads differ: mode none and binary"),
    ],
)
def test_what_was_measured_in_another_way_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    old, new = result(tmp_path / "old.json", (1,)), result(tmp_path / "new.json", (1,), **change)
    with pytest.raises(NotComparable) as refused:
        compare(old, new)
    assert message in str(refused.value)


def test_more_runs_may_be_compared_with_fewer(tmp_path: Path) -> None:
    old, new = result(tmp_path / "old.json", (1,)), result(tmp_path / "new.json", (1, 2), runs=5)
    assert compare(old, new)[0].new == 1.5
    assert differences(old, new) == ["runs 2 and 5"]


def test_the_command(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    result(old, (100, 110))
    result(new, (200, 220), series=(Point({"rate": 10}, spreads([{"p99_ms": 2.0}])),))
    done = CliRunner().invoke(bench, ["compare", str(old), str(new)])
    assert done.exit_code == 0
    assert "apart" in done.stdout
    assert "rate 10" in done.stdout
    done = CliRunner().invoke(bench, ["compare", str(old), str(new), "--json", "-"])
    found = json.loads(done.stdout)
    assert found["figures"][0]["ratio"] == 2
    assert found["old"]["file"] == str(old)


def test_failures_are_one_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    result(old, (100,))
    done = CliRunner().invoke(bench, ["compare", str(old), str(new)])
    assert done.exit_code == 1
    assert done.stderr == f"error: {new}: No such file or directory\n"
    result(new, (100,), events=5)
    done = CliRunner().invoke(bench, ["compare", str(old), str(new)])
    assert done.stderr == "error: the workloads differ: events 1000 and 5\n"


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"benchmark": "x"}', '"text"'])
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    file = tmp_path / "out.json"
    file.write_text(text)
    with pytest.raises(ResultInvalid, match=r"out\.json is no result of a benchmark"):
        read_result(file)


def test_figures_that_lack_something(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result(file, (1,))
    found = json.loads(file.read_text())
    del found["figures"]["events_per_s"]["values"]
    file.write_text(json.dumps(found))
    with pytest.raises(ResultInvalid, match="events_per_s lacks values"):
        read_result(file)


def test_of_several_results_that_in_the_file_with_the_benchmarks_name(tmp_path: Path) -> None:
    for name, rate in (("a", 1.0), ("latency", 2.0), ("z", 3.0)):
        result(tmp_path / f"{name}.json", (rate,))
    (found,) = read_results(tmp_path).values()
    assert found.figures["events_per_s"]["median"] == 2


def test_markdown(tmp_path: Path) -> None:
    found = result(tmp_path / "a.json", (1000, 3000), series=(Point({"rate": 10}, spreads([{"p99_ms": 2.0}])),))
    lines = markdown([found]).splitlines()
    assert found.commit in lines[0]
    assert found.machine["processor"] in lines[0]
    assert lines[4] == (
        "| latency: events 1000, sizes [100, 200], numbered {'aggregates': 10}, runs 2 "
        "| events_per_s | 2,000 | 1,000 | 3,000 | 2 |"
    )
    assert lines[-1] == "|  | rate 10 p99_ms | 2 | 2 | 2 | 1 |"
