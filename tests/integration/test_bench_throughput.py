"""The benchmarks that work a backlog off, tiny: that every program sees it through to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.progress import Progress

from bench import at_least_once, ceiling, matrix
from bench.matrix import Cell
from bench.run import Layout
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker

QUIET = Progress(disable=True)


def test_the_ceiling_with_single_messages_of_existing_aggregates(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Any expected version but that of the index would be a rejection, and the last event never come."""
    workload = Workload(300, aggregates=50, conflict_percent=5, batch_messages=1, mode="binary", existing=True)
    (figures,) = ceiling.measure(workload, broker, runs=1, directory=tmp_path, progress=QUIET)
    assert figures["throughput_to_ceiling"] > 0
    assert figures["relay_peak_memory_mib"] > 10
    assert figures["sequencer_broker_cpu_s"] > 0


def test_at_least_once(broker: EmbeddedBroker, tmp_path: Path) -> None:
    workload = Workload(2000, aggregates=100, conflict_percent=5)
    (figures,) = at_least_once.measure(workload, broker, runs=1, directory=tmp_path, progress=QUIET)
    assert figures["price_percent"] < 100
    assert figures["at_least_once_transactions_per_s"] > 0


def test_the_matrix(broker: EmbeddedBroker, tmp_path: Path) -> None:
    base = Cell("base", Workload(1000, aggregates=100))
    split = Cell("2 partitions in 2 processes", Workload(1000, aggregates=100), Layout(2, 2), with_relay=True)
    known = Cell("50 existing aggregates", Workload(1000, aggregates=50, existing=True))
    points = matrix.measure([base, split, known], broker, runs=2, directory=tmp_path, progress=QUIET)
    alone, relay, sequencer, known_ones = points
    assert [point.at["program"] for point in (alone, relay, sequencer)] == ["sequencer", "relay", "sequencer"]
    assert (alone.at["events"], sequencer.at["events"]) == (1000, 2000)
    assert "rate_to_beside" not in alone.figures
    assert "rate_to_beside" not in relay.figures, "there was none at the base point"
    rates = zip(sequencer.figures["events_per_s"]["values"], alone.figures["events_per_s"]["values"], strict=True)
    assert sequencer.figures["rate_to_beside"]["values"] == pytest.approx([a / b for a, b in rates], rel=0.01)
    assert known_ones.figures["rate_to_beside"]["median"] > 0
    assert list(tmp_path.iterdir()) == [], "nor the index that it began with"
