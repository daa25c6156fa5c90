"""A fixed set of seeds, and under a name of its own every seed that ever failed. Fresh ones: make faults MINUTES=30."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sequencer.broker import EmbeddedBroker
from tests.faults.schedule import plan
from tests.faults.world import BROKER_SETTINGS, BrokerDefect, run

SECONDS = 12.0
SEEDS = (8, 14, 22, 23, 36)
ATTEMPTS = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Brokers:
    """The broker of this module; another one where a known defect has stopped it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self.current = self._start()

    def renew(self) -> None:
        """Kill the broker, and start an empty one."""
        self.current.kill()
        self.current = self._start()

    def _start(self) -> EmbeddedBroker:
        self._count += 1
        broker = EmbeddedBroker(self._directory / f"broker-{self._count}", extra_settings=BROKER_SETTINGS)
        broker.start()
        return broker


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    brokers = Brokers(tmp_path_factory.mktemp("seeds"))
    yield brokers
    brokers.current.kill()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(brokers: Brokers, tmp_path: Path, seed: int) -> None:
    for attempt in range(ATTEMPTS):
        try:
            run(plan(seed, SECONDS), brokers.current, f"public/seed-{seed}", tmp_path / str(attempt))
            return
        except BrokerDefect:
            brokers.renew()
    pytest.fail(f"the broker stopped answering in {ATTEMPTS} attempts")
