"""How partitions are spread over workers, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sequencer import service
from sequencer.service import NoSuchPartition, ServiceSettings, _shares, run


@pytest.mark.parametrize(
    ("partitions", "workers", "shares"),
    [
        ((0, 1, 2, 3), 2, [(0, 2), (1, 3)]),
        ((0, 1, 2, 3, 7), 2, [(0, 2, 7), (1, 3)]),
        ((5,), 3, [(5,), (), ()]),
        ((), 2, [(), ()]),
    ],
)
def test_every_partition_has_one_worker(partitions: tuple[int, ...], workers: int, shares: list[Any]) -> None:
    assert _shares(partitions, workers) == shares


def test_a_partition_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def four(settings: ServiceSettings) -> int:
        return 4

    monkeypatch.setattr(service, "_partition_count", four)
    settings = ServiceSettings("pulsar://127.0.0.1:1", "public/default", (1, 4), tmp_path)
    with pytest.raises(NoSuchPartition, match="there is no partition 4: public/default has 4"):
        run(settings)
