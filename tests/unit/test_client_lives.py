"""One life after another: what ends them, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sequencer.client import lives as module
from sequencer.client.lives import Lives
from sequencer.pulsar.errors import ConnectionLost, EndpointClosed


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(module, "PAUSE_MOST_S", 0.002)


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await story

    asyncio.run(limited())


class Scripted:
    """Lives that do what is said: each script is one of them."""

    def __init__(self, *scripts: Callable[[Lives], Awaitable[None]]) -> None:
        self._scripts = list(scripts)
        self.ended = asyncio.Event()
        self.lives = Lives("test", self._one_life, self.ended.set)

    async def _one_life(self) -> None:
        await self._scripts.pop(0)(self.lives)


async def lost_at_once(lives: Lives) -> None:
    raise ConnectionLost("refused")


async def lost_later(lives: Lives) -> None:
    lives.begun()
    async with asyncio.TaskGroup() as group:
        group.create_task(lost_at_once(lives))
        group.create_task(asyncio.sleep(60))


async def long_life(lives: Lives) -> None:
    lives.begun()
    await asyncio.Event().wait()


async def bug(lives: Lives) -> None:
    lives.begun()
    raise AssertionError("a bug")


def test_a_first_life_that_comes_to_nothing_is_the_only_one() -> None:
    async def story() -> None:
        scripted = Scripted(lost_at_once)
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="refused"):
                await scripted.lives.start()
        await scripted.ended.wait()
        assert not scripted.lives.running
        await scripted.lives.close()

    run(story())


def test_later_ones_are_begun_again_and_again() -> None:
    async def story() -> None:
        up = asyncio.Event()

        async def up_again(lives: Lives) -> None:
            assert isinstance(lives.failure, ConnectionLost)
            up.set()
            await long_life(lives)

        scripted = Scripted(lost_later, lost_at_once, lost_at_once, up_again)
        await scripted.lives.start()
        await up.wait()
        assert scripted.lives.running
        assert scripted.lives.failure is None
        assert not scripted.ended.is_set()
        await scripted.lives.close()
        assert scripted.ended.is_set()
        assert not scripted.lives.running

    run(story())


def test_a_bug_ends_them_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        scripted = Scripted(bug)
        await scripted.lives.start()
        await scripted.ended.wait()
        assert isinstance(scripted.lives.failure, AssertionError)
        assert "a bug" in caplog.text

    run(story())


def test_closed_before_it_began() -> None:
    async def story() -> None:
        async def never(lives: Lives) -> None:
            await asyncio.Event().wait()

        scripted = Scripted(never)
        starting = asyncio.create_task(scripted.lives.start())
        await asyncio.sleep(0)
        await scripted.lives.close()
        with pytest.raises(EndpointClosed, match="closed"):
            await starting
        await Lives("never started", lambda: long_life(scripted.lives)).close()

    run(story())


@pytest.mark.parametrize("turns", range(6))
def test_closing_while_a_life_fails(turns: int) -> None:
    """At whatever turn of the loop it comes, it is not lost."""

    async def story() -> None:
        lose = asyncio.Event()

        async def lost_when_told(lives: Lives) -> None:
            lives.begun()
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                await lose.wait()
                group.create_task(lost_at_once(lives))

        scripted = Scripted(lost_when_told, long_life)
        await scripted.lives.start()
        lose.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        await scripted.lives.close()
        assert not scripted.lives.running

    run(story())
