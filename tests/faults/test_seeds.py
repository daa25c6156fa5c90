"""A fixed set of seeds. Fresh ones: make faults MINUTES=30."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.brokers import Brokers
from tests.faults.schedule import plan
from tests.faults.world import run_on

SECONDS = 10.0
SEEDS = (2, 194, pytest.param(315, marks=pytest.mark.long))
"""Of four hundred, the three that together hold the most kinds of faults."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(brokers: Brokers, tmp_path: Path, seed: int) -> None:
    run_on(brokers, plan(seed, SECONDS), tmp_path)
