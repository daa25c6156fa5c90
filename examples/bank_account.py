"""A bank account that never goes below zero, though fifty tasks withdraw from it at once through two event stores.

The rules are two pure functions: `decide` says which event follows from a command, `evolve` what an event changes. The
account's state is what its events add up to; here a subscription keeps it at hand for every account.

A withdrawal is decided on the state as of some version, and appended with that expected version. If somebody else was
faster it is refused, and decided anew on what is true by then.

    python examples/bank_account.py
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import msgspec

from sequencer.client import NO_AGGREGATE, Codec, EventStore, Recorded, WrongExpectedVersion, json_codec

SERVICE_URL = os.environ.get("SEQUENCER_SERVICE_URL", "pulsar://127.0.0.1:6650")
NAMESPACE = os.environ.get("SEQUENCER_NAMESPACE", "public/default")

OPENING_BALANCE = 1_000
WITHDRAWAL = 30
TASKS = 50


# --- the rules ---


class Opened(msgspec.Struct, tag=True):
    """The account's first event."""

    balance: int


class Withdrawn(msgspec.Struct, tag=True):
    """Money has left the account."""

    amount: int


Event = Opened | Withdrawn


@dataclass(frozen=True)
class Account:
    """What the events up to a version add up to."""

    version: int = NO_AGGREGATE
    balance: int = 0


def evolve(account: Account, event: Event) -> Account:
    """The account after one more event."""
    match event:
        case Opened(balance):
            return replace(account, version=account.version + 1, balance=balance)
        case Withdrawn(amount):
            return replace(account, version=account.version + 1, balance=account.balance - amount)


def decide(account: Account, amount: int) -> Event | None:
    """What follows from the wish to withdraw; None where the account does not hold so much."""
    return Withdrawn(amount) if account.balance >= amount else None


# --- the application ---


class Accounts:
    """Every account as of the newest event that has been read."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._changed = asyncio.Condition()

    async def follow(self, store: EventStore[Event]) -> None:
        """Read events for ever."""
        async with store.subscribe() as events:
            async for event in events:
                await self._apply(event)

    async def _apply(self, event: Recorded[Event]) -> None:
        async with self._changed:
            self._accounts[event.key] = evolve(self._accounts.get(event.key, Account()), event.data)
            self._changed.notify_all()

    async def at_least(self, key: str, version: int) -> Account:
        """The account, once this version of it has been read."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._accounts.get(key, Account()).version >= version)
            return self._accounts[key]


@asynccontextmanager
async def application() -> AsyncIterator[tuple[EventStore[Event], Accounts]]:
    """An event store and the accounts that follow it, as one process of a service has them."""
    accounts = Accounts()
    codec: Codec[Event] = json_codec(Event)
    async with EventStore(service_url=SERVICE_URL, namespace=NAMESPACE, codec=codec) as store:
        following = asyncio.create_task(accounts.follow(store))
        try:
            yield store, accounts
        finally:
            following.cancel()


async def withdraw(store: EventStore[Event], accounts: Accounts, key: str, amount: int) -> tuple[bool, int]:
    """Withdraw if the account holds so much. Returns whether it did, and how often somebody else was faster."""
    version, conflicts = 0, 0
    while True:
        account = await accounts.at_least(key, version)
        event = decide(account, amount)
        if event is None:
            return False, conflicts
        try:
            await store.append(key, event, account.version)
            return True, conflicts
        except WrongExpectedVersion as faster:
            version, conflicts = faster.current, conflicts + 1


async def main() -> None:
    """Open an account, withdraw from it fifty times at once, and look what its events say."""
    key = f"account-{uuid4()}"
    async with application() as (store_a, accounts_a), application() as (store_b, accounts_b):
        opened = await store_a.append(key, Opened(OPENING_BALANCE), NO_AGGREGATE)
        sides = ((store_a, accounts_a), (store_b, accounts_b))
        withdrawals = await asyncio.gather(*(withdraw(*sides[n % 2], key, WITHDRAWAL) for n in range(TASKS)))
        accepted = sum(done for done, _ in withdrawals)
        conflicts = sum(conflicts for _, conflicts in withdrawals)
        account = await accounts_a.at_least(key, opened.first_version + accepted)
    print(f"{accepted} of {TASKS} withdrawals of {WITHDRAWAL} accepted, {conflicts} times somebody else was faster")
    print(f"balance {account.balance} at version {account.version}")
    assert accepted == min(TASKS, OPENING_BALANCE // WITHDRAWAL)
    assert account == Account(accepted, OPENING_BALANCE - accepted * WITHDRAWAL)


if __name__ == "__main__":
    asyncio.run(main())
