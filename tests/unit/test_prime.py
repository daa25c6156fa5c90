"""When priming is tried again, and what it leaves behind when it fails; client and topic are stand-ins here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sequencer import prime as module
from sequencer.prime import PRIME_ATTEMPTS, PrimingFailed, prime_output, prime_outputs
from sequencer.pulsar.errors import ConnectionLost, PulsarError, ServerError, ServerRefused
from sequencer.pulsar.frames import MessageId, TxnId

TOPIC = "persistent://public/default/events-partition-0"
TXN = TxnId(0, 0)


class Stand:
    """Client, reader, coordinator and producer in one: writes down what is done; `fails` says what fails how often."""

    topic = TOPIC

    def __init__(self, *, visible: int = -1, fails: dict[str, list[PulsarError]] | None = None) -> None:
        self.visible = visible
        self.fails = fails or {}
        self.done: list[str] = []

    def _do(self, what: str) -> None:
        self.done.append(what)
        if self.fails.get(what):
            raise self.fails[what].pop(0)

    async def reader(self, topic: str) -> Stand:
        assert topic == TOPIC
        return self

    async def last_message_id(self) -> MessageId:
        return MessageId(self.visible, self.visible)

    async def coordinator(self, tc_id: int) -> Stand:
        return self

    async def producer(self, topic: str) -> Stand:
        self._do("producer")
        return self

    async def new_txn(self, *, ttl_ms: int) -> TxnId:
        self._do("open")
        return TXN

    async def add_partitions(self, txn: TxnId, topics: list[str]) -> None:
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

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRIME_RETRY_DELAY_S", 0.0)


def prime(stand: Any, **options: Any) -> bool:
    return asyncio.run(prime_output(stand, TOPIC, **options))


def test_one_aborted_transaction() -> None:
    stand = Stand()
    assert prime(stand)
    assert stand.done == ["producer", "open", "register", "send", "abort"]


def test_a_topic_with_messages_is_left_alone() -> None:
    stand = Stand(visible=3)
    assert not prime(stand)
    assert stand.done == []


def test_a_failed_attempt_aborts_its_transaction_and_is_followed_by_another() -> None:
    stand = Stand(fails={"send": [ConnectionLost("gone")]})
    assert prime(stand)
    assert stand.done == ["producer", "open", "register", "send", "abort"] * 2


def test_the_first_failure_is_the_one_that_is_told() -> None:
    failures: list[PulsarError] = [ConnectionLost(f"gone {n}") for n in range(PRIME_ATTEMPTS)]
    stand = Stand(fails={"register": failures, "abort": [ConnectionLost("too")] * PRIME_ATTEMPTS})
    with pytest.raises(ConnectionLost, match=f"gone {PRIME_ATTEMPTS - 1}"):
        prime(stand)
    assert stand.done.count("open") == PRIME_ATTEMPTS


def test_an_owner_is_not_kept_waiting_by_attempts() -> None:
    stand = Stand(fails={"open": [ConnectionLost("gone")]})
    with pytest.raises(ConnectionLost):
        prime(stand, producer=stand)
    assert stand.done == ["open"]


def test_a_message_that_shows_after_all_is_a_failure() -> None:
    stand = Stand()

    async def end_and_show(txn: TxnId, *, commit: bool) -> None:
        stand.visible = 0

    stand.end = end_and_show  # type: ignore[method-assign]
    with pytest.raises(PrimingFailed, match="shows a message"):
        prime(stand)


@pytest.mark.parametrize("error", [ServerError.PRODUCER_FENCED, ServerError.PRODUCER_BUSY])
def test_an_owned_topic_is_left_to_its_owner(error: ServerError) -> None:
    stand: Any = Stand(fails={"producer": [ServerRefused("PRODUCER", error, "held")]})
    reports: list[tuple[str, bool]] = []
    asyncio.run(prime_outputs(stand, [TOPIC], already=lambda _: False, report=lambda *told: reports.append(told)))
    assert reports == [(TOPIC, False)]
    assert stand.done == ["producer"]


def test_another_refusal_is_a_failure() -> None:
    refusal = ServerRefused("PRODUCER", ServerError.AUTHORIZATION_ERROR, "not you")
    stand: Any = Stand(fails={"producer": [refusal] * PRIME_ATTEMPTS})
    with pytest.raises(ServerRefused, match="not you"):
        asyncio.run(prime_outputs(stand, [TOPIC], already=lambda _: False, report=lambda topic, primed: None))
    assert stand.done == ["producer"]


def test_what_is_primed_already_is_not_touched() -> None:
    stand: Any = Stand()
    reports: list[tuple[str, bool]] = []
    asyncio.run(
        prime_outputs(stand, [TOPIC], already=lambda topic: topic == TOPIC, report=lambda *told: reports.append(told))
    )
    assert reports == [(TOPIC, False)]
    assert stand.done == []
