"""What the pool promises: recorded first, used afterwards; nothing old; nothing for nobody. With stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

from sequencer.pool import POOL_TRANSACTIONS, REFILL_BELOW, TransactionPool
from sequencer.pulsar.errors import ConnectionLost, ServerError, ServerRefused
from sequencer.pulsar.frames import TxnId

TURNS = 20
"""Of the event loop, in which a refill is done here."""


class Stand:
    """Coordinator and owner log in one: writes down what is done, in order."""

    def __init__(self) -> None:
        self.opened = 0
        self.registered: dict[TxnId, set[str]] = {}
        self.records: list[set[TxnId]] = []
        self.ended: list[TxnId] = []
        self.fails = ""

    async def new_txn(self, *, ttl_ms: int) -> TxnId:
        if self.fails == "open":
            raise ConnectionLost("gone")
        txn = TxnId(0, self.opened)
        self.opened += 1
        self.registered[txn] = set()
        return txn

    async def add_partitions(self, txn: TxnId, topics: Sequence[str]) -> None:
        self.registered[txn].update(topics)

    async def add_subscription(self, txn: TxnId, topic: str, subscription: str) -> None:
        self.registered[txn].add(f"{topic}/{subscription}")

    async def record(self, transactions: Iterable[TxnId]) -> None:
        if self.fails == "record":
            raise ConnectionLost("gone")
        listed = set(transactions)
        assert all(self.registered[txn] == {"events", "submitted/sequencer"} for txn in listed)
        self.records.append(listed)

    async def end(self, txn: TxnId, *, commit: bool) -> None:
        assert not commit
        if txn in self.ended:
            raise ServerRefused("END_TXN", ServerError.TRANSACTION_NOT_FOUND, "no such transaction")
        self.ended.append(txn)


def with_pool(work: Callable[[TransactionPool], Awaitable[Any]], stand: Stand, ttl_s: float = 3600.0) -> Any:
    async def run() -> Any:
        log: Any = stand
        pool = TransactionPool(
            log, log, output_topic="events", input_topic="submitted", subscription="sequencer", ttl_s=ttl_s
        )
        return await work(pool)

    return asyncio.run(run())


def test_nothing_is_opened_before_it_is_asked_for() -> None:
    stand = Stand()

    async def look(pool: TransactionPool) -> None:
        await asyncio.sleep(0)

    with_pool(look, stand)
    assert stand.opened == 0


def test_what_is_handed_out_has_been_recorded_and_one_record_covers_many() -> None:
    stand = Stand()

    async def take_many(pool: TransactionPool) -> None:
        in_use: list[TxnId] = []
        for _ in range(10 * POOL_TRANSACTIONS):
            in_use.append(await pool.take())
            # The last record is what a successor reads: it must list everything that may be open.
            assert set(in_use) <= stand.records[-1]
            if len(in_use) == 5:
                pool.ended(in_use.pop(0))
        assert len(set(stand.registered)) == stand.opened

    with_pool(take_many, stand)
    assert len(stand.records) <= 10 * POOL_TRANSACTIONS / REFILL_BELOW + 1


def test_no_transaction_is_handed_out_twice() -> None:
    stand = Stand()

    async def take_many(pool: TransactionPool) -> list[TxnId]:
        return [await pool.take() for _ in range(5 * POOL_TRANSACTIONS)]

    taken = with_pool(take_many, stand)
    assert len(set(taken)) == len(taken)


def test_what_has_ended_is_not_recorded_any_more() -> None:
    stand = Stand()

    async def take_and_end(pool: TransactionPool) -> TxnId:
        first = await pool.take()
        pool.ended(first)
        for _ in range(POOL_TRANSACTIONS):
            pool.ended(await pool.take())
        return first

    first = with_pool(take_and_end, stand)
    assert first in stand.records[0]
    assert first not in stand.records[-1]


def test_what_was_used_up_is_opened_again_when_its_transaction_has_ended() -> None:
    stand = Stand()

    async def take_and_end(pool: TransactionPool) -> None:
        for taken in range(1, 4 * POOL_TRANSACTIONS):
            txn = await pool.take()
            opened = stand.opened
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert stand.opened == opened == POOL_TRANSACTIONS + taken - 1, "not beside the transaction"
            pool.ended(txn)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert stand.opened == opened + 1

    with_pool(take_and_end, stand)


def test_half_its_life_is_too_old() -> None:
    stand = Stand()

    async def wait_half_a_life(pool: TransactionPool) -> TxnId:
        await pool.take()
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        loop.time = lambda: now_s + 0.51  # type: ignore[method-assign]
        return await pool.take()

    taken = with_pool(wait_half_a_life, stand, ttl_s=1.0)
    assert stand.ended == [TxnId(0, n) for n in range(1, POOL_TRANSACTIONS)]
    assert taken == TxnId(0, POOL_TRANSACTIONS)


@pytest.mark.parametrize("turns", [0, 1, 50])
def test_what_a_refill_has_opened_may_be_too_old_as_well(turns: int) -> None:
    """The process stands still after it began a refill: when this had just begun, was under way, or was done."""
    stand = Stand()
    before: set[TxnId] = set()

    async def stand_still(pool: TransactionPool) -> TxnId:
        for _ in range(POOL_TRANSACTIONS - REFILL_BELOW + 2):
            await pool.take()
        for _ in range(turns):
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        before.update(TxnId(0, n) for n in range(stand.opened))
        loop.time = lambda: now_s + 0.51  # type: ignore[method-assign]
        return await pool.take()

    assert with_pool(stand_still, stand, ttl_s=1.0) not in before


@pytest.mark.parametrize("step", ["open", "record"])
def test_what_cannot_be_opened_or_recorded_is_not_handed_out(step: str) -> None:
    stand = Stand()
    stand.fails = step

    async def take(pool: TransactionPool) -> None:
        with pytest.raises(ConnectionLost):
            await pool.take()

    with_pool(take, stand)


def test_close_ends_everything_that_is_open() -> None:
    stand = Stand()

    async def take_and_close(pool: TransactionPool) -> None:
        done = await pool.take()
        pool.ended(done)
        await pool.take()
        await pool.close()
        assert sorted(stand.ended) == [TxnId(0, n) for n in range(stand.opened) if TxnId(0, n) != done]

    with_pool(take_and_close, stand)
