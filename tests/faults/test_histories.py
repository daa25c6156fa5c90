"""Histories of concurrent appends are linearizable, and clients and log agree. Many more: make histories COUNT=100."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import schedule
from tests.faults.brokers import Brokers
from tests.faults.world import ATTEMPTS, BrokerDefect
from tests.linearizability.plans import Plan, plan
from tests.linearizability.run import Figures, run

SECONDS = 10.0
SEED = 121
"""Within ten seconds it kills the broker, owners and clients, and freezes owners and clients."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_while_nothing_fails(brokers: Brokers, tmp_path: Path) -> None:
    quiet = schedule.Plan(1, 0.0, partitions=2, processes=1, shared_index=False, hurry=True, ttl_s=0.0, faults=())
    figures = _run(Plan(quiet, histories=1, aggregates=(3,), clients=2, tasks=20, pause_s=0.02), brokers, tmp_path)
    assert figures.counts["operations"] >= 1_000


def test_while_everything_fails(brokers: Brokers, tmp_path: Path) -> None:
    figures = _run(plan(SEED, SECONDS, 3)._replace(operations=300), brokers, tmp_path)
    assert figures.faults["kill -9 of a client"] > 0
    assert figures.counts["unknown"] > 0
    assert figures.counts["answered: duplicate"] > 0


def _run(one: Plan, brokers: Brokers, directory: Path) -> Figures:
    for attempt in range(ATTEMPTS):
        try:
            return run(one, brokers.current, f"public/histories-{one.faults.seed}-{attempt}", directory / str(attempt))
        except BrokerDefect:
            brokers.renew()
    raise AssertionError(f"the broker stopped answering in {ATTEMPTS} attempts")
