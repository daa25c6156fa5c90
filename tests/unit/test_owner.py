"""The owner log: its record, what is refused to be one, and how a predecessor's transactions are ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from sequencer import owner
from sequencer.owner import (
    MAX_RECORDED_TRANSACTIONS,
    OwnerLog,
    OwnerLogBroken,
    OwnerRecord,
    end_transaction,
    end_transactions,
    last_record,
)
from sequencer.pulsar.client import Coordinator, Producer, PulsarClient
from sequencer.pulsar.errors import ConnectionLost, PulsarError, RequestTimedOut, ServerError, ServerRefused
from sequencer.pulsar.frames import EARLIEST, Entry, MessageId, TxnId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata
from tests.submitted import batch, sent_metadata, stored

TOPIC = "persistent://public/default/sequencer_owners-partition-0"
TXNS = [TxnId(0, 0), TxnId(0, 17), TxnId(15, 2**64 - 1)]
GOOD = {"epoch": 4, "host": "h", "pid": 1, "since_ms": 2, "transactions": [[0, 7]]}


class OwnerTopic:
    """The log as its producer fills it and a client's readers see it."""

    def __init__(self, *entries: Entry) -> None:
        self.topic_epoch = 4
        self.entries = [entry._replace(message_id=MessageId(9, n, 0)) for n, entry in enumerate(entries)]

    def send(self, metadata: bytes, payload: bytes, *, num_messages: int) -> asyncio.Future[MessageId]:
        assert num_messages == 1
        complete = MessageMetadata.FromString(metadata + sent_metadata().SerializeToString())
        position = MessageId(9, len(self.entries), 0)
        self.entries.append(stored(complete, payload, position))
        receipt: asyncio.Future[MessageId] = asyncio.get_running_loop().create_future()
        receipt.set_result(position)
        return receipt

    async def reader(self, topic: str, *, start: MessageId = EARLIEST, inclusive: bool = False) -> Reader:
        assert topic == TOPIC
        return Reader(
            [
                one
                for one in self.entries
                if one.message_id[:2] > start[:2] or (inclusive and one.message_id[:2] == start[:2])
            ]
        )

    def last(self) -> OwnerRecord | None:
        return asyncio.run(last_record(cast(PulsarClient, self), TOPIC))


class Reader:
    def __init__(self, entries: Sequence[Entry]) -> None:
        self._left = list(entries)

    async def last_message_id(self) -> MessageId:
        return self._left[-1].message_id if self._left else EARLIEST

    async def take(self, *, max_messages: int, max_bytes: int) -> list[Entry]:
        assert self._left, "a real reader would wait here for ever"
        return [self._left.pop(0)]

    async def close(self) -> None:
        pass


def single(payload: bytes) -> Entry:
    return stored(sent_metadata(), payload)


def test_the_last_record_tells_what_its_owner_wrote() -> None:
    topic = OwnerTopic()

    async def write() -> None:
        log = OwnerLog(cast(Producer, topic))
        await log.record([TxnId(3, 3)])
        await log.record(TXNS)

    asyncio.run(write())
    found = topic.last()
    assert found is not None
    assert (found.epoch, found.transactions) == (4, [tuple(txn) for txn in TXNS])
    assert found.pid > 0
    assert found.host
    assert found.since_ms > 1_700_000_000_000
    assert len(topic.entries) == 2
    assert set(json.loads(topic.entries[0].payload)) == set(GOOD), "what is stored is a format"


def test_an_owner_may_have_nothing_open() -> None:
    topic = OwnerTopic(single(json.dumps(GOOD).encode()), single(json.dumps({**GOOD, "transactions": []}).encode()))
    assert topic.last() == OwnerRecord(4, "h", 1, 2, [])


def test_nobody_ever_owned_an_empty_log() -> None:
    assert OwnerTopic().last() is None


def test_a_record_has_a_limit() -> None:
    topic = OwnerTopic()

    async def write(count: int) -> None:
        await OwnerLog(cast(Producer, topic)).record([TxnId(0, n) for n in range(count)])

    asyncio.run(write(MAX_RECORDED_TRANSACTIONS))
    with pytest.raises(AssertionError):
        asyncio.run(write(MAX_RECORDED_TRANSACTIONS + 1))
    assert len(topic.entries) == 1


def test_of_a_batch_the_last_message_counts() -> None:
    older, newer = (json.dumps({**GOOD, "epoch": epoch}).encode() for epoch in (1, 2))
    head = b"\x18"
    found = OwnerTopic(batch([(head + bytes([len(one)]), one) for one in (older, newer)])).last()
    assert found is not None
    assert found.epoch == 2


def test_fields_of_a_later_version_are_passed_over() -> None:
    found = OwnerTopic(single(json.dumps({**GOOD, "version": 2}).encode())).last()
    assert found == OwnerRecord(4, "h", 1, 2, [(0, 7)])


def changed(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(single(b""), id="empty"),
        pytest.param(single(b"\xff\xfe\0"), id="garbage"),
        pytest.param(single(b"[]"), id="array"),
        pytest.param(single(b"{}"), id="no-field"),
        pytest.param(single(changed()[:-1]), id="cut-off"),
        pytest.param(single(changed() + b"x"), id="more-after-it"),
        pytest.param(single(changed(host="?").replace(b"?", b"\xff")), id="not-utf8"),
        pytest.param(single(changed(epoch="4")), id="epoch-text"),
        pytest.param(single(changed(epoch=None)), id="epoch-null"),
        pytest.param(single(changed(transactions=None)), id="transactions-null"),
        pytest.param(single(changed(transactions=[[1]])), id="half-a-transaction"),
        pytest.param(single(changed(transactions=[[1, 2, 3]])), id="more-than-a-transaction"),
        pytest.param(single(changed(transactions=[[0, 7.5]])), id="transaction-of-floats"),
        pytest.param(single(b'{"x":' + b"[" * 100_000), id="nested-too-deeply"),
        pytest.param(batch([(b"\x18\x01", b"x")], count=2), id="corrupt-batch"),
        pytest.param(batch([]), id="empty-batch"),
        pytest.param(single(b"\x8e")._replace(metadata=MessageMetadata(), damage="checksum mismatch"), id="damaged"),
    ],
)
def test_what_is_not_an_owner_record_is_refused(entry: Entry) -> None:
    topic = OwnerTopic(single(changed()), entry)
    with pytest.raises(OwnerLogBroken, match=r"sequencer_owners-partition-0, message 9:1:0:-1: not an owner record"):
        topic.last()


# --- ending a predecessor's transactions ---


def invalid(state: str) -> ServerRefused:
    text = f"Expect Txn `(0,7)` to be in OPEN status but it is in {state} status"
    return ServerRefused("END_TXN", ServerError.INVALID_TXN_STATUS, text)


def refused(error: int, text: str = "") -> ServerRefused:
    return ServerRefused("END_TXN", error, text)


GONE = refused(ServerError.TRANSACTION_NOT_FOUND, "The transaction with this txdID `(0,7)`not found")
FOREIGN = refused(ServerError.TRANSACTION_NOT_FOUND, "Client is neither the owner of the transaction (0,7) nor ...")


class Script:
    """A coordinator that gives these answers, one after another, and notes what it was asked."""

    def __init__(self, *answers: PulsarError | None) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def end(self, txn: TxnId, *, commit: bool) -> None:
        assert txn == TxnId(0, 7)
        self.asked.append("commit" if commit else "abort")
        if (answer := self._answers.pop(0)) is not None:
            raise answer


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        pytest.param([None], ["abort"], id="open"),
        pytest.param([GONE], ["abort"], id="gone"),
        pytest.param([invalid("COMMITTED")], ["abort"], id="committed"),
        pytest.param([invalid("ABORTED")], ["abort"], id="aborted"),
        pytest.param([invalid("COMMITTING"), None], ["abort", "commit"], id="committing"),
        pytest.param([invalid("COMMITTING"), GONE], ["abort", "commit"], id="committing-then-gone"),
        pytest.param([invalid("COMMITTING")] * 3 + [GONE], ["abort"] + ["commit"] * 3, id="committing-for-long"),
        pytest.param([invalid("ABORTING")] * 2 + [GONE], ["abort"] * 3, id="aborting"),
        pytest.param([invalid("TIME_OUT"), invalid("ABORTING"), GONE], ["abort"] * 3, id="timed-out"),
        pytest.param([invalid("COMMITTING"), invalid("ABORTING"), GONE], ["abort", "commit", "abort"], id="both"),
        pytest.param([invalid("SOMETHING_NEW"), GONE], ["abort"] * 2, id="a-state-unheard-of"),
        pytest.param([refused(ServerError.UNKNOWN_ERROR, "TC is Initializing"), None], ["abort"] * 2, id="starting"),
    ],
)
def test_a_transaction_is_ended_whatever_it_is_in(
    monkeypatch: pytest.MonkeyPatch, answers: list[PulsarError | None], asked: list[str]
) -> None:
    monkeypatch.setattr(owner, "END_RETRY_DELAY_S", 0)
    coordinator = Script(*answers)
    asyncio.run(end_transaction(cast(Coordinator, coordinator), TxnId(0, 7)))
    assert coordinator.asked == asked


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (FOREIGN, OwnerLogBroken),
        (refused(ServerError.AUTHORIZATION_ERROR), ServerRefused),
        (refused(ServerError.TRANSACTION_COORDINATOR_NOT_FOUND), ServerRefused),
        (ConnectionLost("gone"), ConnectionLost),
        (RequestTimedOut("no answer"), RequestTimedOut),
    ],
)
def test_what_cannot_be_ended_is_not_passed_over(answer: PulsarError, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        asyncio.run(end_transaction(cast(Coordinator, Script(answer)), TxnId(0, 7)))


def test_every_transaction_is_ended_at_its_own_coordinator() -> None:
    ended: list[tuple[int, TxnId]] = []

    class OneOf:
        def __init__(self, tc_id: int) -> None:
            self._tc_id = tc_id

        async def end(self, txn: TxnId, *, commit: bool) -> None:
            ended.append((self._tc_id, txn))

    class Client:
        async def coordinator(self, tc_id: int) -> OneOf:
            return OneOf(tc_id)

    asyncio.run(end_transactions(cast(PulsarClient, Client()), TXNS))
    assert sorted(ended) == [(txn.most, txn) for txn in TXNS]


def test_a_transaction_that_does_not_end_in_time_ends_the_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "END_WITHIN_S", 0.01)

    class Client:
        async def coordinator(self, tc_id: int) -> Client:
            return self

        async def end(self, txn: TxnId, *, commit: bool) -> None:
            raise invalid("COMMITTING")

    with pytest.raises(RequestTimedOut, match="did not end within"):
        asyncio.run(end_transactions(cast(PulsarClient, Client()), [TxnId(0, 7)]))
