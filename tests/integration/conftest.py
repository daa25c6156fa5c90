"""What the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker


@pytest.fixture
def client(broker: EmbeddedBroker) -> Iterator[Any]:
    """The official client, as applications have it."""
    official = pulsar.Client(broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    yield official
    official.shutdown()
