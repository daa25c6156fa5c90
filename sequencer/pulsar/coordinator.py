"""A transaction coordinator, as seen from a client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sequencer.pulsar import commands
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.errors import PulsarError, ServerError, ServerRefused
from sequencer.pulsar.events import TxnOpened
from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.transaction import TRANSITIONS, Step, Transaction, TransactionState

ASSIGN_TOPIC = "persistent://pulsar/system/transaction_coordinator_assign"
"""The partitioned topic whose partition n is served by the broker that runs coordinator n."""


class Coordinator:
    """A coordinator that has been loaded by its broker. Made by `PulsarClient.coordinator`.

    Every method raises ServerRefused (with `error` and `message`), RequestTimedOut, or the reason why the connection
    ended. Many calls may be under way at once.

    Attributes:
        tc_id: its number, the `most` of its transactions' ids.
    """

    def __init__(self, connection: Connection, tc_id: int) -> None:
        self.tc_id = tc_id
        self._connection = connection
        self._open: dict[TxnId, Transaction] = {}
        """Transactions that were opened here and have not ended."""

    @property
    def lost(self) -> asyncio.Future[PulsarError]:
        """Done when the connection has ended; the result is the reason. Shared, so it must not be cancelled."""
        return self._connection.lost

    async def new_txn(self, *, ttl_ms: int) -> TxnId:
        """Open a transaction that the coordinator aborts by itself after `ttl_ms`.

        At its limit of active transactions a coordinator does not answer at all: RequestTimedOut.
        """
        what = f"NEW_TXN on coordinator {self.tc_id}"
        txn = (await self._connection.ask(commands.new_txn(self.tc_id, ttl_ms), what, TxnOpened)).txn
        self._open[txn] = Transaction(txn)
        return txn

    async def add_partitions(self, txn: TxnId, topics: Sequence[str]) -> None:
        """Register topics (partitions), before anything is sent to them in `txn`. The broker does not check."""
        await self._connection.start(commands.add_partitions(txn, topics), f"ADD_PARTITION_TO_TXN {txn}")

    async def add_subscription(self, txn: TxnId, topic: str, subscription: str) -> None:
        """Register a subscription, before anything is acknowledged on it in `txn`. The broker does not check."""
        command = commands.add_subscription(txn, topic, subscription)
        await self._connection.start(command, f"ADD_SUBSCRIPTION_TO_TXN {txn}")

    async def end(self, txn: TxnId, *, commit: bool) -> None:
        """Commit or abort. Returns when every participant has ended it; afterwards the coordinator knows it no more.

        Only after every receipt and every answer to an ACK in `txn`: what arrives later is taken by the broker and
        hides those messages. Never the one while the other is under way: that is a bug, told by an assert.
        """
        transaction = self._open.get(txn) or Transaction(txn, TransactionState.UNKNOWN)
        transaction.advance(Step.COMMIT if commit else Step.ABORT)
        what = f"END_TXN({'COMMIT' if commit else 'ABORT'}) {txn}"
        try:
            await self._connection.start(commands.end_txn(txn, commit), what)
        except ServerRefused as refused:
            transaction.learn(refused.message)
            if refused.error == ServerError.TRANSACTION_NOT_FOUND or not TRANSITIONS[transaction.state]:
                self._open.pop(txn, None)
            raise
        except (PulsarError, asyncio.CancelledError):
            transaction.advance(Step.LOSE)
            raise
        self._open.pop(txn, None)
        transaction.advance(Step.ENDED)
