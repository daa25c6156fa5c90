"""The small parts of a partition's life; the life itself is told by the integration tests, on a real broker."""

from __future__ import annotations

import asyncio
import gc

import pytest

from sequencer.names import Topics
from sequencer.partition import OutOfOrder, Partition, _check_order, _race, unless
from sequencer.pulsar.errors import ConnectionLost
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata

PARTITION = Partition(3, 4, Topics("public/default"))


def entries(*positions: tuple[int, int]) -> list[Entry]:
    return [Entry(MessageId(ledger, entry, 3), MessageMetadata(), b"", 0, (), "") for ledger, entry in positions]


def test_the_topics_of_a_partition() -> None:
    assert PARTITION.submitted == "persistent://public/default/submitted_events-partition-3"
    assert PARTITION.events == "persistent://public/default/events-partition-3"
    assert PARTITION.rejected == "persistent://public/default/rejected_events-partition-3"
    assert PARTITION.owners == "persistent://public/default/sequencer_owners-partition-3"


def test_delivery_goes_forward_over_gaps_and_ledgers() -> None:
    last = _check_order(PARTITION, (-1, -1), entries((5, 0), (5, 1), (5, 7), (8, 0)))
    assert last == (8, 0)
    assert _check_order(PARTITION, last, entries((8, 1))) == (8, 1)


@pytest.mark.parametrize("again", [(5, 1), (5, 0), (4, 9)])
def test_an_entry_that_comes_again_ends_the_life(again: tuple[int, int]) -> None:
    with pytest.raises(OutOfOrder, match=r"partition 3: entry \(\d, \d\) was delivered after \(5, 1\)"):
        _check_order(PARTITION, (5, 1), entries(again))


def test_unless_gives_the_result_of_the_work() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def run() -> int | None:
        return await unless(asyncio.Event(), work())

    assert asyncio.run(run()) == 7


def test_unless_ends_the_work_before_it_returns() -> None:
    steps: list[str] = []

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("work let go")
        return 7

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_soon(stop.set)
        assert await unless(stop, work()) is None
        steps.append("returned")

    asyncio.run(run())
    assert steps == ["work let go", "returned"]


def test_unless_begins_nothing_any_more_when_it_is_stopped_already() -> None:
    """Otherwise a sequencer with a backlog, which never has to wait for work, would not hear that it is to stop."""

    async def work() -> int:
        raise AssertionError("it was begun")

    async def run() -> int | None:
        stop = asyncio.Event()
        stop.set()
        return await unless(stop, work())

    assert asyncio.run(run()) is None


def test_a_failure_of_either_is_raised_and_ends_the_other() -> None:
    ended: list[str] = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def failing() -> None:
        await asyncio.sleep(0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        asyncio.run(_race(forever("work"), failing()))
    with pytest.raises(OSError, match="gone"):
        asyncio.run(_race(failing(), forever("other")))
    assert ended == ["work", "other"]


def test_two_that_fail_of_the_same_loss_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Found with seed 287869322: the one that is cancelled may fail in its own way, and nobody waits for it."""

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionLost("cut")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ConnectionLost("cut")

    async def race() -> None:
        with pytest.raises(ConnectionLost):
            await _race(fails_when_cancelled(), fails())
        gc.collect()

    asyncio.run(race())
    assert not caplog.records
