"""Brokers for faults: one for all that follows, and another where a known defect has stopped it."""

from __future__ import annotations

from pathlib import Path

import httpx

from sequencer.broker import EmbeddedBroker
from tests.faults.broker_defect import pending_ack_replay_spins

BROKER_SETTINGS = {"keepAliveIntervalSeconds": "2"}
"""A frozen sequencer's connection is closed after 2 to 4 s instead of 30 to 60."""

ADMIN_LIMIT_S = 30.0


class Brokers:
    """The broker that runs now. Everything starts on an empty one, and most of it can share one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self.current = self._start()

    def renew(self) -> None:
        """Kill the broker, and start an empty one."""
        self.current.kill()
        self.current = self._start()

    def close(self) -> None:
        """Kill the broker."""
        self.current.kill()

    def _start(self) -> EmbeddedBroker:
        self._count += 1
        broker = EmbeddedBroker(self._directory / f"broker-{self._count}", extra_settings=BROKER_SETTINGS)
        broker.start()
        return broker


def create_namespace(broker: EmbeddedBroker, name: str) -> None:
    """Make a namespace with infinite retention."""
    policies = {"retention_policies": {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}}
    url = f"{broker.admin_url}/admin/v2/namespaces/{name}"
    httpx.put(url, json=policies, timeout=ADMIN_LIMIT_S, trust_env=False).raise_for_status()


def restart_if_spinning(broker: EmbeddedBroker) -> bool:
    """Restart a broker that answers no more, as an operator has to: nothing else ends it. Whether it was needed."""
    if not pending_ack_replay_spins(broker):
        return False
    broker.kill()
    broker.start()
    return True
