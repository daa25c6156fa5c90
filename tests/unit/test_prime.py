"""What priming does, in which order; broker and owner log are stand-ins here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sequencer.prime import PrimingFailed, prime_outputs, refresh_end
from sequencer.pulsar.errors import ConnectionLost
from sequencer.pulsar.frames import MessageId, TxnId

TOPIC = "persistent://public/default/events-partition-0"
TXN = TxnId(0, 0)


class Stand:
    """Client, reader, coordinator, producer and owner log in one: writes down what is done."""

    topic = TOPIC

    def __init__(self, *, visible: int = -1, fails: str = "") -> None:
        self.visible = visible
        self.fails = fails
        self.done: list[str] = []

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what == self.fails:
            raise ConnectionLost("gone")

    async def reader(self, topic: str) -> Stand:
        assert topic == TOPIC
        return self

    async def last_message_id(self) -> MessageId:
        return MessageId(self.visible, self.visible)

    async def close(self) -> None:
        pass

    async def new_txn(self, *, ttl_ms: int) -> TxnId:
        self._do("open")
        return TXN

    async def record(self, transactions: Sequence[TxnId]) -> None:
        assert transactions == [TXN]
        self._do("record")

    async def add_partitions(self, txn: TxnId, topics: Sequence[str]) -> None:
        assert (txn, topics) == (TXN, [TOPIC])
        self._do("register")

    def send(self, metadata: bytes, payload: bytes, *, num_messages: int, txn: TxnId) -> asyncio.Future[MessageId]:
        assert txn == TXN
        self._do("send")
        stored: asyncio.Future[MessageId] = asyncio.get_running_loop().create_future()
        stored.set_result(MessageId(1, 0))
        return stored

    async def end(self, txn: TxnId, *, commit: bool) -> None:
        assert not commit
        self._do("abort")


def prime(stand: Any) -> None:
    asyncio.run(prime_outputs(stand, [stand], stand, stand))


def test_one_aborted_transaction_recorded_before_it_is_used() -> None:
    stand = Stand()
    prime(stand)
    assert stand.done == ["open", "record", "register", "send", "abort"]


def test_a_topic_with_messages_is_left_alone() -> None:
    stand = Stand(visible=3)
    prime(stand)
    assert stand.done == []


@pytest.mark.parametrize("step", ["open", "record", "register", "send", "abort"])
def test_a_failure_ends_it(step: str) -> None:
    stand = Stand(fails=step)
    with pytest.raises(ConnectionLost):
        prime(stand)
    assert stand.done[-1] == step


def test_a_message_that_shows_after_all_is_a_failure() -> None:
    stand = Stand()

    async def end_and_show(txn: TxnId, *, commit: bool) -> None:
        stand.visible = 0

    stand.end = end_and_show  # type: ignore[method-assign]
    with pytest.raises(PrimingFailed, match="shows a message"):
        prime(stand)


def test_the_end_is_refreshed_by_an_empty_transaction_recorded_before_it_is_used() -> None:
    stand: Any = Stand(visible=3)
    asyncio.run(refresh_end(stand, stand, stand))
    assert stand.done == ["open", "record", "register", "abort"]
