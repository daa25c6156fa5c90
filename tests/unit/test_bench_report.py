"""What a benchmark hands over: figures, where they come from, on the terminal and as JSON."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.origin import UNKNOWN, beginning, commit, machine, origin
from bench.report import STANDARD_OUTPUT, Point, at_text, hand_over, spread, spreads

RUNS = [{"events_per_s": 100.0, "cpu_s": 1.5}, {"events_per_s": 300.0, "cpu_s": 2.5}, {"events_per_s": 200.0}]


def report(tmp_path: Path, **more: Any) -> Any:
    file = tmp_path / "results" / "out.json"
    hand_over("throughput", "throughput, 3 runs", {"events": 1000}, spreads(RUNS), file, **more)
    return json.loads(file.read_text())


def test_a_spread_holds_every_run() -> None:
    values = [float(n) for n in (5, 1, 4, 2, 3)]
    expected = {"median": 3.0, "min": 1.0, "max": 5.0, "p90": 4.6, "runs": 5, "values": values}
    assert spread(values) == expected
    assert spread([7.0]) == {"median": 7.0, "min": 7.0, "max": 7.0, "p90": 7.0, "runs": 1, "values": [7.0]}


def test_a_figure_that_not_every_run_has() -> None:
    figures = spreads(RUNS)
    assert list(figures) == ["events_per_s", "cpu_s"]
    assert figures["cpu_s"]["values"] == [1.5, 2.5]


def test_the_report_says_where_it_comes_from(tmp_path: Path) -> None:
    found = report(tmp_path, versions={"postgresql": "16.2"})
    assert list(found) == ["benchmark", "when", "commit", "versions", "machine", "workload", "figures"]
    assert datetime.now(UTC) - datetime.fromisoformat(found["when"]) < timedelta(minutes=1)
    named = {"python", "pulsar", "java", "protobuf", "msgspec", "rocksdict", "pulsar-client", "pulsar-sequencer"}
    assert named | {"postgresql"} <= set(found["versions"])
    assert re.fullmatch(r"\d+(\.\d+)+", found["versions"]["java"])
    assert set(found["machine"]) == {"processor", "cores", "memory_gib", "system"}
    assert found["workload"] == {"events": 1000}
    assert found["figures"]["events_per_s"]["median"] == 200


def test_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(tmp_path, series=[Point({"rate": 1000, "path": "plain"}, spreads([{"p99_ms": 2.5}]))])
    (point,) = found["series"]
    assert point["at"] == {"rate": 1000, "path": "plain"}
    assert point["figures"]["p99_ms"]["median"] == 2.5
    shown = capsys.readouterr().out
    assert "rate 1,000, path plain" in " ".join(shown.split())
    assert "p99_ms" in shown


def test_the_terminal_has_the_table_and_the_file_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(tmp_path)
    shown = capsys.readouterr()
    assert "events_per_s" in shown.out
    assert '"benchmark"' not in shown.out
    assert shown.err == ""


def test_json_on_standard_output_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    hand_over("throughput", "3 runs", {}, spreads(RUNS), STANDARD_OUTPUT)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["benchmark"] == "throughput"
    assert "events_per_s" in shown.err


def test_lists_of_values_stand_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    workload = {"sizes": [100, 1024], "names": ["a  [b", "c\nd"], "nested": [[1], [2]], "none": []}
    hand_over("throughput", "3 runs", workload, spreads(RUNS), file)
    assert '"values": [100.0, 300.0, 200.0]' in file.read_text()
    assert json.loads(file.read_text())["workload"] == workload


def test_a_point_in_words() -> None:
    assert at_text({"rate": 10000, "path": "plain", "zipf": 1.5}) == "rate 10,000, path plain, zipf 1.5"


def git(directory: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", "-C", str(directory), *who, *arguments], check=True, capture_output=True)


def test_the_commit_and_whether_the_code_was_changed(tmp_path: Path) -> None:
    assert commit(tmp_path) == UNKNOWN
    code, result = tmp_path / "code.py", tmp_path / "bench" / "results" / "old.json"
    result.parent.mkdir(parents=True)
    code.write_text("1")
    result.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    result.write_text("2")
    assert commit(tmp_path) == clean, "a result of another benchmark is no change of the code"
    code.write_text("2")
    assert commit(tmp_path) == clean + "-dirty"


def test_a_commit_that_changes_while_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    beginning.cache_clear()
    found = iter(["a" * 12, "a" * 12, "b" * 12])
    monkeypatch.setattr("bench.origin.commit", lambda _: next(found))
    assert origin({})["commit"] == "a" * 12
    assert origin({})["commit"] == "a" * 12 + "-dirty"
    beginning.cache_clear()


def test_a_directory_that_git_cannot_read(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("no repository")
    assert commit(tmp_path) == UNKNOWN


def test_the_machine() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["processor"]
    assert set(origin({"x": "1"})) == {"when", "commit", "versions", "machine"}
