"""The plots: drawn from results as the benchmarks write them, always the same, in both of GitHub's modes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench import at_least_once, ceiling, matrix, outbox_latency, takeover
from bench.__main__ import bench
from bench.charts import DARK, LIGHT, Bar, Curve, bars, curves, save
from bench.plots import PLOTS
from bench.report import Point, hand_over, spread, spreads
from bench.run import SEQUENCER, Run

RUN = Run(events=1000, seconds=2.0, cpu_s=1.0, broker_cpu_s=1.0, peak_memory_mib=90.0, transactions=7)


def points(kinds: Iterable[Mapping[str, str | int]], figures: Mapping[str, float]) -> list[Point]:
    return [Point(at, spreads([figures, {name: value * 1.1 for name, value in figures.items()}])) for at in kinds]


def write(directory: Path, benchmark: str, figures: Mapping[str, float], series: Iterable[Point] = ()) -> None:
    workload = {"rate": 2000, "freeze": False}
    hand_over(benchmark, "title", workload, spreads([figures]), directory / f"{benchmark}.json", series=list(series))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One result of every benchmark that is plotted, with figures by its own names."""
    directory = tmp_path / "results"
    write(directory, "ceiling", ceiling._figures(RUN, RUN))
    write(directory, "at-least-once", at_least_once._figures(RUN, RUN))
    write(directory, "takeover", dict.fromkeys([*takeover.STEPS, "first_commit_ms"], 5.0))
    entries: list[Mapping[str, str | int]] = [{"events_per_entry": events} for events in (500, 1)]
    write(directory, "micro", {}, points(entries, {"frame_encode_ns": 5.0, "read_binary_ns": 7.0}))
    cells = [matrix._at(cell, SEQUENCER) for cell in matrix.cells(1000)]
    write(directory, "matrix", {}, points(cells, RUN.figures()))
    paths: list[Mapping[str, str | int]] = [
        {"rate": rate, "path": path} for rate in (10, 1000) for path in ("plain", "sequenced")
    ]
    write(directory, "latency", {}, points(paths, {"p50_ms": 1.0, "p99_ms": 2.0, "p99.9_ms": 3.0}))
    systems: list[Mapping[str, str | int]] = [
        {"system": "table", "connections": 1, "per_transaction": 1},
        {"system": "outbox", "connections": 8, "per_transaction": 1000},
        {"system": "append", "at_once": 1000},
        {"system": "publish", "batch": 500},
    ]
    ways: list[Mapping[str, str | int]] = [{"path": path, "rate": 100} for path in outbox_latency.PATHS]
    growing: list[Mapping[str, str | int]] = [
        {"access": access, "aggregates": size} for access in ("uniform", "zipf") for size in (100_000, 1_000_000)
    ]
    grown = {"events_per_s": 1e5, "tails_bytes_per_aggregate": 60.0, "memory_mib": 80.0, "limit_mib": 90.0}
    write(directory, "growth", {}, points(growing, grown))
    measured = points(systems, {"events_per_s": 1000}) + points(ways, {"p50_ms": 1.0, "p99_ms": 2.0})
    write(directory, "alternatives", {}, measured)
    return directory


def draw(results: Path, out: Path) -> dict[str, bytes]:
    done = CliRunner().invoke(bench, ["plots", "--results", str(results), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [str(out / f"{name}{mode}.svg") for name, *_ in PLOTS for mode in ("", "-dark")]
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_every_plot_is_drawn_and_the_same_again(results: Path, tmp_path: Path) -> None:
    first, second = draw(results, tmp_path / "a"), draw(results, tmp_path / "b")
    assert len(first) == 2 * len(PLOTS)
    assert first == second
    assert all(step in first["micro.svg"] for step in (b"frame encode", b"read binary", b"batches of 500"))
    for name, text in first.items():
        mine, others = (DARK, LIGHT) if name.endswith("-dark.svg") else (LIGHT, DARK)
        assert mine.background.encode() in text
        assert others.background.encode() not in text
        assert not re.search(rb"<dc:date>|Matplotlib v", text)


def test_plots_of_which_there_are_no_results_are_left_out(results: Path, tmp_path: Path) -> None:
    for file in results.iterdir():
        if file.stem != "takeover":
            file.unlink()
    done = CliRunner().invoke(bench, ["plots", "--results", str(results), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["takeover-dark.svg", "takeover.svg"]


def test_no_results_at_all(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["plots", "--results", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr == f"error: there is no result in {tmp_path}: make bench writes them\n"


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bench.plots", "bench.charts"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(bench, ["plots"])
    assert done.exit_code == 1
    assert done.stderr == "error: plots needs the package matplotlib: pip install -e '.[bench]'\n"


def test_bars_say_median_and_range() -> None:
    figure = bars("Title", "events per second", [Bar("ours", spread([10.0, 30.0, 20.0])), Bar("b", spread([5.0]))])(
        LIGHT
    )
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.containers[1]] == [20, 5]
    assert axes.get_xlabel() == "events per second"
    assert [text.get_text() for text in axes.texts] == ["20", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "b"]


def test_a_median_that_was_rounded_below_the_minimum() -> None:
    assert bars("Title", "s", [Bar("a", spread([0.12345]))])(LIGHT).axes


def test_curves_are_in_the_order_of_x_and_named_once() -> None:
    line = Curve("uniform", [(1e6, spread([2.0])), (1e5, spread([1.0, 3.0, 4.0]))])
    limit = Curve("limit", [(1e5, spread([9.0])), (1e6, spread([9.0]))])
    figure = curves("Growth", "aggregates", {"events per second": [line], "MiB": [line, limit]})(LIGHT)
    upper, lower = figure.axes
    assert np.asarray(upper.get_lines()[0].get_xydata()).tolist() == [[1e5, 3], [1e6, 2]]
    legend = upper.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["uniform", "limit"]
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("events per second", "MiB", "aggregates")


def test_a_plot_is_two_files(tmp_path: Path) -> None:
    files = save("x", bars("Title", "unit", [Bar("a", spread([1.0]))]), tmp_path)
    assert [file.name for file in files] == ["x.svg", "x-dark.svg"]
