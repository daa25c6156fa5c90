"""A partition that refuses a producer, and what becomes of the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sequencer.client import appender as module
from sequencer.client.appender import Appender
from sequencer.client.values import StoreSettings
from sequencer.names import Topics
from sequencer.pulsar.errors import ServerError, ServerRefused

PRODUCER: Any = object()


class Refusing:
    """A client whose broker says no, for these reasons one after the other, and then yes."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    async def producer(self, topic: str, name: str) -> object:
        if self.errors:
            raise ServerRefused(f"PRODUCER on {topic}", self.errors.pop(0), "no")
        return PRODUCER


async def opened(client: Any) -> object:
    appender = Appender(StoreSettings(), Topics(), 1)
    async with asyncio.timeout(10):
        return await appender._open_producer(client, appender._partitions[0])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAME_TAKEN_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "QUOTA_PAUSE_S", 0.0)


@pytest.mark.parametrize(
    "error",
    [
        ServerError.PRODUCER_BUSY,
        ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_ERROR,
        ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_EXCEPTION,
    ],
)
def test_what_passes_is_waited_for(error: ServerError) -> None:
    """To end the life for it would take the answers from the appends to every other partition."""
    assert asyncio.run(opened(Refusing(*[error] * 50))) is PRODUCER


@pytest.mark.parametrize("error", [ServerError.TOPIC_NOT_FOUND, ServerError.AUTHORIZATION_ERROR, 99])
def test_what_does_not_pass_ends_the_life(error: int) -> None:
    with pytest.raises(ServerRefused):
        asyncio.run(opened(Refusing(error)))


def test_a_name_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAME_TAKEN_LIMIT_S", -1.0)
    with pytest.raises(ServerRefused, match="BUSY"):
        asyncio.run(opened(Refusing(ServerError.PRODUCER_BUSY)))
