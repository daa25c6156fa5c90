"""How partitions are spread over workers, what is refused before anything starts, and what is said of failed lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sequencer import service
from sequencer.names import Topics
from sequencer.partition import Partition
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import AuthFailed, ConnectionLost, LookupFailed, ServerError, ServerRefused
from sequencer.replies import Replies
from sequencer.service import NoSuchPartition, ServiceSettings, _keep_alive, _shares, run


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


# --- what is said of lives that fail ---

DENIED = LookupFailed(
    "LOOKUP of persistent://public/default/events-partition-0",
    ServerError.AUTHORIZATION_ERROR,
    "Client is not authorized to Lookup",
)
DENIED_ELSEWHERE = ServerRefused(
    "PRODUCER on persistent://public/default/rejected_events-partition-0", ServerError.AUTHORIZATION_ERROR, "no"
)


def no_client() -> PulsarClient:
    raise AssertionError("there is nothing to reply to")


def said_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lives: Sequence[Exception]) -> list[str]:
    """The log of a partition whose lives end like this, one after another, before it is stopped."""
    left = list(lives)

    async def short(client: Any, partition: Any, index_dir: Path, replies: Any, stop: asyncio.Event) -> None:
        if not left:
            stop.set()
            return
        raise left.pop(0)

    monkeypatch.setattr(service, "live", short)
    monkeypatch.setattr(service, "BACKOFF_FIRST_S", 0.0)
    settings = ServiceSettings("pulsar://127.0.0.1:1", "public/default", (0,), Path("index"))

    async def story() -> bool:
        topics = Topics("public/default")
        async with Replies(no_client, topics) as replies:
            return await _keep_alive(settings, Partition(0, 1, topics), replies, asyncio.Event())

    with caplog.at_level(logging.INFO, logger=service.__name__):
        assert asyncio.run(story())
    assert not left
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_a_missing_permission_is_told_once_with_its_topic(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = said_of(monkeypatch, caplog, [DENIED, DENIED, DENIED_ELSEWHERE, DENIED, DENIED_ELSEWHERE])
    assert first == (
        "ERROR partition 0: not permitted: LookupFailed: LOOKUP of persistent://public/default/events-partition-0: "
        "AUTHORIZATION_ERROR: Client is not authorized to Lookup; trying until it is, see 'Permissions' in "
        "docs/operations.md"
    )
    assert "PRODUCER on persistent://public/default/rejected_events-partition-0" in second


def test_a_permission_that_is_missing_again_is_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the two it got further: another failure shows that."""
    lives = [DENIED, DENIED, ConnectionLost("gone"), DENIED, AuthFailed("127.0.0.1:1: Failed to authenticate")]
    said = said_of(monkeypatch, caplog, lives)
    assert [line.split(": ")[:3] for line in said] == [
        ["ERROR partition 0", "not permitted", "LookupFailed"],
        ["WARNING partition 0", "ConnectionLost", "gone; starting anew in 0.00 s"],
        ["ERROR partition 0", "not permitted", "LookupFailed"],
        ["ERROR partition 0", "not permitted", "AuthFailed"],
    ]


def test_other_failures_are_told_each_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    said = said_of(monkeypatch, caplog, [ConnectionLost("gone")] * 3)
    assert said == ["WARNING partition 0: ConnectionLost: gone; starting anew in 0.00 s"] * 3
