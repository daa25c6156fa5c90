"""Ending transactions, with answers of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from sequencer.pulsar.connection import Connection
from sequencer.pulsar.coordinator import Coordinator
from sequencer.pulsar.errors import ConnectionLost, PulsarError, ServerError, ServerRefused
from sequencer.pulsar.events import TxnOpened
from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand

OURS, FOREIGN = TxnId(0, 1), TxnId(0, 99)
COMMITTING = "Expect Txn `(0,1)` to be in OPEN status but it is in COMMITTING status"


class Answers:
    """Stands in for a connection: gives back one prepared answer after the other, None for success."""

    def __init__(self, *answers: PulsarError | None) -> None:
        self._answers = list(answers)
        self.sent: list[bool] = []

    async def ask(self, command: BaseCommand, what: str, kind: type[TxnOpened]) -> TxnOpened:
        return kind(OURS)

    async def start(self, command: BaseCommand, what: str) -> None:
        self.sent.append(command.endTxn.txn_action == 0)
        answer = self._answers.pop(0)
        if answer is not None:
            raise answer


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def coordinator(answers: Answers) -> Coordinator:
    return Coordinator(cast(Connection, answers), 0)


@pytest.mark.parametrize("commit", [True, False])
def test_ended_is_forgotten(commit: bool) -> None:
    async def story() -> None:
        answers = Answers(None, ServerRefused("END_TXN", ServerError.TRANSACTION_NOT_FOUND, "gone"))
        ours = coordinator(answers)
        txn = await ours.new_txn(ttl_ms=1000)
        await ours.end(txn, commit=commit)
        with pytest.raises(ServerRefused):
            await ours.end(txn, commit=not commit)
        assert answers.sent == [commit, not commit]

    run(story())


@pytest.mark.parametrize(
    "failure", [ConnectionLost("cut"), ServerRefused("END_TXN", ServerError.UNKNOWN_ERROR, "initializing")]
)
def test_after_a_lost_answer_either_end_may_be_tried(failure: PulsarError) -> None:
    async def story() -> None:
        answers = Answers(failure, None)
        ours = coordinator(answers)
        txn = await ours.new_txn(ttl_ms=1000)
        with pytest.raises(type(failure)):
            await ours.end(txn, commit=True)
        await ours.end(txn, commit=False)

    run(story())


def test_what_the_broker_names_binds_us() -> None:
    async def story() -> None:
        answers = Answers(ServerRefused("END_TXN", ServerError.INVALID_TXN_STATUS, COMMITTING), None)
        ours = coordinator(answers)
        txn = await ours.new_txn(ttl_ms=1000)
        with pytest.raises(ServerRefused):
            await ours.end(txn, commit=False)
        with pytest.raises(AssertionError):
            await ours.end(txn, commit=False)
        await ours.end(txn, commit=True)
        assert answers.sent == [False, True]

    run(story())


def test_what_the_broker_has_ended_may_be_asked_about_again() -> None:
    async def story() -> None:
        gone = ServerRefused("END_TXN", ServerError.TRANSACTION_NOT_FOUND, "gone")
        aborted = COMMITTING.replace("in COMMITTING", "in ABORTED")
        answers = Answers(ServerRefused("END_TXN", ServerError.INVALID_TXN_STATUS, aborted), gone)
        ours = coordinator(answers)
        txn = await ours.new_txn(ttl_ms=1000)
        for commit in (True, False):
            with pytest.raises(ServerRefused):
                await ours.end(txn, commit=commit)

    run(story())


def test_an_abort_while_a_commit_is_under_way_is_a_bug() -> None:
    async def story() -> None:
        class Silent(Answers):
            async def start(self, command: BaseCommand, what: str) -> None:
                await asyncio.Event().wait()

        ours = coordinator(Silent())
        txn = await ours.new_txn(ttl_ms=1000)
        ending = asyncio.create_task(ours.end(txn, commit=True))
        await asyncio.sleep(0)
        with pytest.raises(AssertionError):
            await ours.end(txn, commit=False)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending

    run(story())


def test_transactions_of_others_can_be_ended() -> None:
    async def story() -> None:
        answers = Answers(None, None)
        ours = coordinator(answers)
        await ours.end(FOREIGN, commit=False)
        await ours.end(FOREIGN, commit=True)
        assert answers.sent == [False, True]

    run(story())
