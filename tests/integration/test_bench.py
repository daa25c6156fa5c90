"""Every benchmark, tiny: that it measures at all, ends by itself, and hands over figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from bench import alternatives, append, latency, recovery, takeover, throughput
from bench.numbered import Numbered
from bench.outbox_latency import LatencyPlan
from bench.sql_store import Stored
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker

WITHIN_S = 90.0
ROOT = Path(__file__).parents[2]
TAKEOVER = ["granted_ms", "fenced_ms", "ended_ms", "index_level_ms", "sequencing_ms", "first_commit_ms"]


def command(json_file: Path, *arguments: str) -> dict[str, Any]:
    """Run one benchmark as people do, on a broker of its own; its figures."""
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
    figures: dict[str, Any] = report["figures"]
    return figures


@pytest.mark.long
def test_a_frozen_owner(tmp_path: Path) -> None:
    short = ("--rounds", "1", "--rate", "2000", "--keep-alive", "1")
    figures = command(tmp_path / "out.json", "takeover", "--freeze", *short)
    times = [figures[step]["median"] for step in TAKEOVER]
    assert times == sorted(times)
    assert times[0] > 900, "the broker gives a silent client its keep-alive interval"


@pytest.mark.long
def test_a_broker_that_is_killed_and_restarted(tmp_path: Path) -> None:
    figures = command(tmp_path / "out.json", "restart", "--rounds", "1", "--rate", "2000")
    assert figures["kill_to_first_commit_s"]["median"] > 0


def test_a_killed_owner(broker: EmbeddedBroker, tmp_path: Path) -> None:
    plan = takeover.Plan(1, 2000, False, Numbered(aggregates=1000, event_bytes=160, batch_events=10))
    (figures,) = takeover.measure(plan, broker, directory=tmp_path, progress=Progress(disable=True))
    times = [figures[step] for step in TAKEOVER]
    assert times == sorted(times)
    assert figures["events_per_s_before"] > 0


def test_throughput(broker: EmbeddedBroker, tmp_path: Path) -> None:
    workload = Workload(2000, aggregates=100, conflict_percent=5)
    (run,) = throughput.measure(workload, broker, runs=1, directory=tmp_path, progress=Progress(disable=True))
    assert run.figures()["events_per_s"] > 0
    assert run.transactions > 0


def test_recovery(broker: EmbeddedBroker, tmp_path: Path) -> None:
    plan = recovery.Plan(events=20_000, aggregates=1000, window_percent=10, runs=1)
    (figures,) = recovery.measure(plan, broker, directory=tmp_path, progress=Progress(disable=True))
    assert all(figures[name] > 0 for name in ("everything_s", "warm_s", "compacted_s", "compaction_s"))


def test_verify(tmp_path: Path) -> None:
    small = ("--events", "20000", "--aggregates", "400", "--partitions", "2")
    figures = command(tmp_path / "out.json", "verify", *small)
    assert set(figures) == {"wall_s", "cpu_s", "peak_memory_mib", "peak_disk_mib"}


def test_append(broker: EmbeddedBroker, tmp_path: Path) -> None:
    plan = append.Plan(round_trips=20, at_once=10, appends=200, replies_of=Workload(2000, aggregates=100), runs=1)
    figures = append.measure(plan, broker, directory=tmp_path, progress=Progress(disable=True))
    assert all(figures[name]["median"] > 0 for name in ("append_ms", "visible_ms", "appends_per_s"))
    assert figures["with_to_without_replies"]["median"] > 0
    assert figures["replies_seen_percent"]["median"] == 100


def test_alternatives(broker: EmbeddedBroker, tmp_path: Path) -> None:
    plan = alternatives.Plan(
        appends=40,
        batched=2_000,
        published=2_000,
        latency=LatencyPlan(rate=100, events=20, warm_up_events=20, runs=1),
        runs=1,
        stored=Stored(aggregates=1_000, event_bytes=160),
        connections=(1, 2),
    )
    measured = alternatives.measure(plan, broker, directory=tmp_path, progress=Progress(disable=True))
    rates = [point.figures["events_per_s"]["median"] for point in measured.points if "system" in point.at]
    assert len(rates) == 12
    assert all(rate > 0 for rate in rates)
    latencies = [point.figures["p50_ms"]["median"] for point in measured.points if "path" in point.at]
    assert len(latencies) == 3
    assert all(latency > 0 for latency in latencies)
    assert measured.postgres_version


def test_latency(broker: EmbeddedBroker, tmp_path: Path) -> None:
    plan = latency.Plan(rates=(2_000,), seconds=0.1, events_min=400, warm_up_seconds=0.1, runs=1, aggregates=100)
    (found,) = latency.measure(plan, broker, directory=tmp_path, progress=Progress(disable=True))
    assert [run.latency.get_total_count() for run in (*found.plain, *found.sequenced)] == [400, 400]
    points = latency.series([found])
    assert [point.at["path"] for point in points] == ["plain", "sequenced", "ratio"]
    assert points[0].figures["p50_ms"]["median"] > 0
    assert points[2].figures["merged_p50_ratio"]["median"] > 1
