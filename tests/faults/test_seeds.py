"""A fixed set of seeds. Fresh ones: make faults MINUTES=30."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.brokers import Brokers
from tests.faults.schedule import plan
from tests.faults.world import run_on

SECONDS = 12.0
SEEDS = (8, 14, 22, 23, 36)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(brokers: Brokers, tmp_path: Path, seed: int) -> None:
    run_on(brokers, plan(seed, SECONDS), tmp_path)
