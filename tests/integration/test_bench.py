"""Every benchmark, tiny: that it measures at all, ends by itself, and hands over figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WITHIN_S = 90.0
ROOT = Path(__file__).parents[2]


def _bench(json_file: Path, *arguments: str) -> dict[str, Any]:
    """Run one benchmark to its end; its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--json", str(json_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(json_file.read_text())
    assert report["benchmark"] == arguments[0]
    assert json.dumps(report["figures"], indent=2)[1:-1].strip() in done.stdout.replace("\n  ", "\n")
    figures: dict[str, Any] = report["figures"]
    return figures


@pytest.mark.slow
def test_throughput(tmp_path: Path) -> None:
    figures = _bench(tmp_path / "out.json", "throughput", "--events", "2000", "--runs", "1")
    assert figures["events_per_s"]["median"] > 0
    assert figures["transactions_per_s"]["median"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("strike", [(), ("--freeze", "--keep-alive", "1")])
def test_takeover(tmp_path: Path, strike: tuple[str, ...]) -> None:
    figures = _bench(tmp_path / "out.json", "takeover", "--rounds", "1", "--rate", "2000", *strike)
    steps = ["granted_ms", "fenced_ms", "ended_ms", "index_level_ms", "sequencing_ms", "first_commit_ms"]
    assert [figures[step]["median"] for step in steps] == sorted(figures[step]["median"] for step in steps)


@pytest.mark.slow
def test_restart(tmp_path: Path) -> None:
    figures = _bench(tmp_path / "out.json", "restart", "--rounds", "1", "--rate", "2000")
    assert figures["kill_to_first_commit_s"]["median"] > 0


@pytest.mark.slow
def test_recovery(tmp_path: Path) -> None:
    sizes = ("--events", "20000", "--aggregates", "1000", "--runs", "1")
    figures = _bench(tmp_path / "out.json", "recovery", *sizes)
    assert all(figures[name]["min"] > 0 for name in ("everything_s", "warm_s", "compacted_s", "compaction_s"))
