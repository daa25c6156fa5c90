"""One broker for all tests of faults: that it is young does not matter to any of them, and starting one takes 6 s."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.brokers import Brokers


@pytest.fixture(scope="package")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """A broker that gives frozen sequencers up soon; it can be killed, and renewed."""
    brokers = Brokers(tmp_path_factory.mktemp("faults"))
    yield brokers
    brokers.close()
