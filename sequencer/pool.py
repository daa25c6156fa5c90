"""Transactions opened, registered and recorded ahead of their use.

Opening one, registering its topics and recording its id are three round trips that would stand in every event's way.
The pool does them before they are needed; two round trips remain per transaction: SEND with ACK, and END.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from sequencer.owner import OwnerLog, end_transaction
from sequencer.pulsar.client import Coordinator
from sequencer.pulsar.frames import TxnId

TRANSACTION_TTL_S = 3600.0
"""After this the coordinator aborts a transaction by itself. Long, because nothing relies on it."""

POOL_TRANSACTIONS = 8
"""Transactions that are ready when a partition is not behind with opening them."""

REFILL_BELOW = 4
"""A refill starts in any case when fewer are ready; it takes about as long as three commits."""


class _Ready(NamedTuple):
    txn: TxnId
    opened_at_s: float


class TransactionPool:
    """Hands out transactions that are registered with `topic` and `subscription` and listed in the owner log.

    Nothing happens by a timer: an idle partition opens, renews and expires nothing.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        owner_log: OwnerLog,
        *,
        output_topic: str,
        input_topic: str,
        subscription: str,
        ttl_s: float = TRANSACTION_TTL_S,
    ) -> None:
        self._coordinator = coordinator
        self._owner_log = owner_log
        self._output_topic = output_topic
        self._input_topic = input_topic
        self._subscription = subscription
        self._ttl_s = ttl_s
        self._ready: deque[_Ready] = deque()
        self._in_use: set[TxnId] = set()  # handed out, or being aborted
        self._refill: asyncio.Task[None] | None = None

    async def fill(self) -> None:
        """Open as many as are missing. Called before the first `take`, it spares that one the wait.

        Raises:
            PulsarError: none can be opened or recorded.
        """
        opened_at_s = asyncio.get_running_loop().time()
        count = POOL_TRANSACTIONS - len(self._ready)
        opened = await asyncio.gather(*(self._open() for _ in range(count)))
        # The rule that the whole takeover rests on: recorded first, used afterwards.
        await self._owner_log.record([*self._in_use, *(ready.txn for ready in self._ready), *opened])
        self._ready.extend(_Ready(txn, opened_at_s) for txn in opened)

    async def take(self) -> TxnId:
        """A transaction for immediate use; `ended` must follow.

        Raises:
            PulsarError: none can be opened or recorded.
        """
        while True:
            await self._drop_stale()
            if len(self._ready) < REFILL_BELOW and self._refill is None:
                self._refill = asyncio.create_task(self.fill())
            if self._refill is None or (self._ready and not self._refill.done()):
                break
            refill, self._refill = self._refill, None
            await refill  # and look again: what it has opened may be old, where this process stood still meanwhile
        txn = self._ready.popleft().txn
        self._in_use.add(txn)
        return txn

    def ended(self, txn: TxnId) -> None:
        """The transaction is over, and need not be recorded any more.

        What has been used up is opened again now, when at low load nothing else is to be done: beside the next
        transaction it would slow that one down.
        """
        self._in_use.remove(txn)
        if self._refill is None:
            self._refill = asyncio.create_task(self.fill())

    async def close(self) -> None:
        """Abort everything that is open, so that nobody has to wait for it or to end it."""
        if self._refill is not None:
            await asyncio.gather(self._refill, return_exceptions=True)
        open_now = [*self._in_use, *(ready.txn for ready in self._ready)]
        self._ready.clear()
        await asyncio.gather(*(end_transaction(self._coordinator, txn) for txn in open_now))

    def abandon(self) -> None:
        """Leave everything as it is: whoever comes next finds it in the owner log."""
        if self._refill is not None:
            self._refill.add_done_callback(lambda refill: refill.cancelled() or refill.exception())
            self._refill.cancel()

    async def _open(self) -> TxnId:
        txn = await self._coordinator.new_txn(ttl_ms=int(self._ttl_s * 1000))
        await asyncio.gather(
            self._coordinator.add_partitions(txn, [self._output_topic]),
            self._coordinator.add_subscription(txn, self._input_topic, self._subscription),
        )
        return txn

    async def _drop_stale(self) -> None:
        """Abort what has reached half its life: used now, it could expire in the middle of its work."""
        too_old_s = asyncio.get_running_loop().time() - self._ttl_s / 2
        while self._ready and self._ready[0].opened_at_s < too_old_s:
            txn = self._ready.popleft().txn
            self._in_use.add(txn)  # to be recorded until it has really ended
            await end_transaction(self._coordinator, txn)
            self._in_use.remove(txn)
